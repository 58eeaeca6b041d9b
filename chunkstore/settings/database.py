"""The settings of a store in a SQL database."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from chunkstore.settings.general import Settings


class DatabaseSettings(Settings):
    """Of a database: `sqlite:///file.db`, `postgresql://user@host/db`. `max_connections` is the size of PostgreSQL's pool."""

    place_name: ClassVar[str] = "a database"
    url_may_hold_credentials: ClassVar[bool] = True

    table_name: str = "db_log"
    """The table of the chunks; in PostgreSQL `schema.table` too."""
    password: SecretStr = SecretStr("")
    """The user's password, where it does not stand in the URL."""
    pool_recycle_seconds: int = Field(default=1800, ge=1)
    """PostgreSQL: after how long a connection is made anew, so that no firewall has cut it meanwhile."""
    create_tables: bool | None = None
    """Make the table where there is none, and complete an old one; left out: make it in an SQLite file, and change no table that is there."""
    durability: Literal["process", "barrier", "power"] | None = None
    """Which acknowledged writes survive; left out: `barrier` in an SQLite file, in PostgreSQL what its server is set to."""
