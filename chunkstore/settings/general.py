"""The settings that a store has wherever it is. Those of one kind of place stand in that place's own model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from chunkstore.store import StoreSettings


def _not_later(wanted: bool) -> bool:
    if wanted:
        raise ValueError(
            "a call returns when its write is stored, and would lose it otherwise; to go on meanwhile, use chunkstore.open_async or "
            "threads, and wait for them"
        )
    return wanted


def _one_by_one(size: int) -> int:
    if size > 1:
        raise ValueError(
            "here each chunk is a write of its own, acknowledged when it is stored, and would be lost while a batch fills; for more at once "
            "raise max_connections"
        )
    return size


class Settings(BaseModel):
    """The settings that every store has, with their defaults; each kind of place adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    place_name: ClassVar[str] = "any store"
    """Of what kind of store these are, as an error says it."""
    url_may_hold_credentials: ClassVar[bool] = False
    """Whether a user and a password may stand in the URL; they are shown as stars then."""
    of_one_process: ClassVar[bool] = False
    """Whether no other process can see what is written there."""

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
    cache_ttl_seconds: float = Field(default=0, ge=0, allow_inf_nan=False)
    """For how long a single step, branch or job log that this store has read or written is given out again without asking."""
    batch_size: Annotated[int, AfterValidator(_one_by_one)] = Field(default=1, ge=1)
    """How many chunks one write holds; more than one is refused where a batch could lose acknowledged writes."""
    async_writes: Annotated[bool, AfterValidator(_not_later)] = False
    """Refused: a call that returned has stored what it was given."""
    compact_at_end: bool = False
    """Pack a run when its terminal status is acknowledged. See `docs/how-to/packs.md`."""
    require: Literal["across-processes", "across-hosts"] | None = None
    """Refuse to open a place that cannot promise this much for parallel writers."""
    supports_parallel_writes: bool | None = None
    """`false` tells executors to run branches one by one; `true` is refused where parallel writers are not safe."""
    mock: bool = False
    """Keep the runs in this process's memory, whatever the place is: nothing of the place is opened, and nothing sent."""

    @model_validator(mode="after")
    def _promise_no_more(self) -> Settings:
        if self.supports_parallel_writes and self.of_one_process and not self.mock:
            raise ValueError(
                "supports_parallel_writes: memory is one process's own, and other writers would not be seen; leave it out, or take a folder"
            )
        return self

    @property
    def parallel_writes(self) -> bool:
        """Whether several processes may write at once, as far as the settings tell."""
        return self.supports_parallel_writes is not False and not (self.mock or self.of_one_process)

    def for_store(self) -> StoreSettings:
        """The part that is the store's own; the rest is the backend's."""
        return StoreSettings(
            retention_days=self.retention_days,
            compress_above=self.compression_threshold_bytes if self.enable_compression else None,
            timeout_seconds=self.timeout_seconds,
            known_bytes=self.cache_bytes,
            compact_at_end=self.compact_at_end,
            parallel_writes=self.parallel_writes,
            known_for_seconds=self.cache_ttl_seconds,
        )
