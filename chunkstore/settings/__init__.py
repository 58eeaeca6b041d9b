"""The settings of a store: one model for each way of opening one. What they open is in `config`."""

from chunkstore.settings.database import DatabaseSettings
from chunkstore.settings.general import Settings
from chunkstore.settings.local import LocalSettings
from chunkstore.settings.memory import MemorySettings
from chunkstore.settings.s3 import S3StoreSettings

__all__ = ["DatabaseSettings", "LocalSettings", "MemorySettings", "S3StoreSettings", "Settings"]
