"""Targets: one string says where a service is, and thereby how Penstock is deployed.

file:///data/*.hdf5                 embedded: the backend runs in this process
grpc://host:50051                   one server
grpc://sampler:50051?replicas=dns   every replica behind one name
grpc://a:50051,b:50051              replicas named one by one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal
from urllib.parse import parse_qsl

from penstock.errors import InvalidInput

__all__ = ["Target"]

_EXAMPLES = "file:///data/*.hdf5, grpc://host:50051 or grpc://sampler:50051?replicas=dns"
_OPTIONS = {"grpc": {"replicas"}, "file": set[str]()}


@dataclass(frozen=True)
class Target:
    """A parsed target.

    Attributes:
        scheme: ``file`` (embedded) or ``grpc``.
        locations: Paths or globs of a ``file`` target, ``host:port`` of a ``grpc`` target.
        options: What follows the question mark.
    """

    scheme: Literal["file", "grpc"]
    locations: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read a target.

        A bare path (``data/run.hdf5``) is a ``file`` target.

        Raises:
            InvalidInput: The scheme is unknown, nothing follows it, or an option is unknown.
        """
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "file", text
            if text.startswith(("grpc:", "file:")):
                raise InvalidInput(
                    f"target {text!r}: two slashes follow the scheme: write {_EXAMPLES}",
                    field="target",
                )
        if scheme not in ("file", "grpc"):
            raise InvalidInput(
                f"target {text!r}: unknown scheme {scheme!r}: write {_EXAMPLES}", field="target"
            )
        body, query = rest, ""
        if scheme == "grpc":
            body, _, query = rest.partition("?")
        locations = tuple(part.strip() for part in body.split(",") if part.strip())
        if not locations:
            raise InvalidInput(f"target {text!r} names no place: write {_EXAMPLES}", field="target")
        options = dict(parse_qsl(query, keep_blank_values=True))
        for name in options:
            if name not in _OPTIONS[scheme]:
                raise InvalidInput(
                    f"target {text!r}: unknown option {name!r}: {scheme} targets take "
                    f"{sorted(_OPTIONS[scheme]) or 'none'}",
                    field="target",
                )
        if scheme == "grpc":
            for location in locations:
                _check_address(text, location)
            return cls("grpc", locations, MappingProxyType(options))
        return cls("file", locations, MappingProxyType(options))

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.scheme}://{','.join(self.locations)}{'?' + query if query else ''}"


def _check_address(text: str, location: str) -> None:
    if location.startswith("unix:"):
        return
    host, _, port = location.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:  # noqa: PLR2004 - port range
        raise InvalidInput(
            f"target {text!r}: {location!r} is not host:port: write {_EXAMPLES}", field="target"
        )
