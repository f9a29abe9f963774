"""The ``.pstk`` container: states of training runs as chunks with hashes, without pickle."""

from penstock.container.codecs import Profile, check_profile
from penstock.container.index import MAGIC, BaseRef
from penstock.container.layout import PlannedStorage, restored
from penstock.container.limits import CHUNK_SIZE_BYTES, Limits
from penstock.container.plan import Plan
from penstock.container.reader import Reader, Verified, check_magic, read, verify
from penstock.container.writer import Base, Flattened, Written, flatten, write, write_file

__all__ = [
    "CHUNK_SIZE_BYTES",
    "MAGIC",
    "Base",
    "BaseRef",
    "Flattened",
    "Limits",
    "Plan",
    "PlannedStorage",
    "Profile",
    "Reader",
    "Verified",
    "Written",
    "check_magic",
    "check_profile",
    "flatten",
    "read",
    "restored",
    "verify",
    "write",
    "write_file",
]
