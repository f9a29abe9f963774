"""Saving in the background: snapshots in shared memory, encoded and sent by a second process.

saver              the queue, its policies, errors, the end
barrier            no optimizer steps while a snapshot is being completed
torn               proof that nothing wrote to the state meanwhile
buffers            memory that both processes see
uploader           the process, as the saver sees it
uploader_process   what runs in it
messages           what the two tell one another
"""

from penstock.client.saving.saver import AsyncCheckpointSaver, SaverReport, WhenFull
from penstock.client.saving.torn import TornSnapshot

__all__ = ["AsyncCheckpointSaver", "SaverReport", "TornSnapshot", "WhenFull"]
