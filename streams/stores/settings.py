"""Settings of the stores behind a cluster: Cassandra for histories, PostgreSQL for visibility."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

_Count = Annotated[int, Field(ge=1)]
_Milliseconds = Annotated[int, Field(ge=1)]
_Port = Annotated[int, Field(ge=1, le=65535)]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]

DEFAULT_REPLICAS: Final = 3

_URL = re.compile(r"postgresql://[^/?\s]*/[^/?\s]+(\?\S*)?")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CassandraSettings(_Section):
    """Where histories are kept."""

    contact_points: Annotated[tuple[str, ...], Field(min_length=1)] = ("127.0.0.1",)
    port: _Port = 9042
    keyspace: _Name = "odradek"
    local_dc: str = "datacenter1"
    """The data centre that reads and writes go to, at LOCAL_QUORUM."""
    replication: dict[str, _Count] = {}
    """Replicas by data centre, of a keyspace that is created; three in `local_dc` where none are given."""
    username: str = ""
    password: SecretStr = SecretStr("")
    tls: bool = False
    tls_ca: Path | None = None  # None: the system's
    tls_certificate: Path | None = None  # with its key; None: the client shows none
    tls_key: Path | None = None
    connect_timeout_ms: _Milliseconds = 5_000
    request_timeout_ms: _Milliseconds = 10_000
    concurrent_writes: _Count = 64
    """Requests of one write that are under way at the same moment."""

    def replicas(self) -> dict[str, int]:
        """Replicas by data centre of a keyspace that is created."""
        return self.replication or {self.local_dc: DEFAULT_REPLICAS}


class PostgresSettings(_Section):
    """Where what lists show is kept. `url` is libpq's, whose options it may carry (``?sslmode=verify-full``)."""

    url: str = "postgresql://odradek@127.0.0.1:5432/odradek"
    password: SecretStr = SecretStr("")
    """Stands for the password of the URL."""
    pool_size: _Count = 4
    """Lists and counts that run at the same time, each on a connection of its own."""
    connect_timeout_s: _Count = 5
    statement_timeout_ms: _Milliseconds = 30_000

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if not _URL.fullmatch(value):
            raise ValueError("it is to be of the form postgresql://user@host:port/database")
        return value
