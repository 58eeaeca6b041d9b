"""The settings that a store has wherever it is. Those of one kind of place stand in that place's own model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from chunkstore.store import StoreSettings


class Settings(BaseModel):
    """The settings that every store has, with their defaults; each kind of place adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    place_name: ClassVar[str] = "any store"
    """Of what kind of store these are, as an error says it."""
    url_may_hold_credentials: ClassVar[bool] = False
    """Whether a user and a password may stand in the URL; they are shown as stars then."""

    retention_days: int = Field(default=90, ge=1)
    """For how many days a run is worth keeping. Nothing is deleted by itself."""
    enable_compression: bool = True
    """Whether chunks above the threshold are compressed."""
    compression_threshold_bytes: int = Field(default=1_000_000, ge=0)
    """The threshold, in bytes of the body."""
    timeout_seconds: float = Field(default=30, gt=0, allow_inf_nan=False)
    """How long one operation may take, with all its tries."""
    max_connections: int = Field(default=20, ge=1)
    """Requests at once, or connections of a pool; more help where the place is far away."""
    cache_bytes: int = Field(default=64 << 20, ge=0)
    """Memory for the chunks that the process saw last."""
    compact_at_end: bool = False
    """Pack a run when its terminal status is acknowledged. See `docs/how-to/packs.md`."""
    require: Literal["across-processes", "across-hosts"] | None = None
    """Refuse to open a place that cannot promise this much for parallel writers."""

    def for_store(self) -> StoreSettings:
        """The part that is the store's own; the rest is the backend's."""
        return StoreSettings(
            retention_days=self.retention_days,
            compress_above=self.compression_threshold_bytes if self.enable_compression else None,
            timeout_seconds=self.timeout_seconds,
            known_bytes=self.cache_bytes,
            compact_at_end=self.compact_at_end,
        )

    @classmethod
    def secret_names(cls) -> frozenset[str]:
        """The settings whose values are never shown."""
        return frozenset(name for name, field in cls.model_fields.items() if field.annotation is SecretStr)
