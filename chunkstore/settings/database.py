"""The settings of a store in a SQL database."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr

from chunkstore.settings.general import Settings


class DatabaseSettings(Settings):
    """Of a database: `sqlite:///file.db`, `postgresql://user@host/db`. `max_connections` is the size of its pool."""

    place_name: ClassVar[str] = "a database"
    url_may_hold_credentials: ClassVar[bool] = True

    table_name: str = "db_log"
    """The table of the chunks."""
    password: SecretStr = SecretStr("")
    """The user's password, where it does not stand in the URL."""
    pool_recycle_seconds: int = Field(default=1800, ge=1)
    """After how long a connection is made anew, so that no firewall has cut it meanwhile."""
    create_tables: bool = True
    """Make the table where there is none."""
