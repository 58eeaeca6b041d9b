"""Chores on leases: which there are, what was written under an older holding, and taking away the records of runs that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chunkstore import keys
from chunkstore.chunks import Chunks
from chunkstore.errors import ConflictError, FormatError, InvalidInputError, LeaseHeldError, NotSupportedError
from chunkstore.fencing import unfenced
from chunkstore.leaserecords import Record, decode, raise_highest
from chunkstore.leases import take
from chunkstore.store import ChunkedRunLogStore


@dataclass(frozen=True, slots=True)
class LeaseFound:
    """One lease, as its record says."""

    run_id: str
    name: str
    generation: int
    held: bool
    """Whether it was not released; who holds it may have died, which nobody can tell by one look."""
    holder: str
    """Who has it, or had it last."""
    since: str
    ttl: float


@dataclass(frozen=True, slots=True)
class SweptLeases:
    """What sweeping came to."""

    gone: tuple[LeaseFound, ...]
    """Taken away; with `dry_run` those that would be."""
    kept: tuple[LeaseFound, ...]
    """Of runs that are gone too, but held, or taken again meanwhile."""
    damaged: tuple[str, ...]
    """Keys of what is no record."""


def list_leases(store: ChunkedRunLogStore) -> list[LeaseFound]:
    """All leases, by run and name. One listing (one request per 1,000) and one request for each, all at once. Raises `FormatError` at a damaged one."""
    found, damaged = _read(store, [entry.key for entry in store.backend.list(keys.LEASES)])
    for key, error in damaged.items():
        raise FormatError(str(error), key=key) from error
    return sorted((_found(record) for record, _ in found.values()), key=lambda one: (one.run_id, one.name))


def sweep_leases(store: ChunkedRunLogStore, *, patience: float = 0.0, dry_run: bool = False) -> SweptLeases:
    """Takes away the records of leases whose run is not there and that are released. Their generations go on where they were.

    One that is held stays: its run may be about to be made. `patience` is for how many seconds each of these is waited for, to see whether its holder
    still renews it; one that was not renewed for its `ttl` goes too. May be called at any time, beside any holder.

    Costs one listing of the leases and one of the runs, one request for each lease without a run, two for the highest generation, and one for each that goes.
    Raises `NotSupportedError` where the place cannot delete under a condition (MinIO): without that, one that was just taken again could be deleted.
    """
    if not patience >= 0:
        raise InvalidInputError(f"patience must be a number of seconds, 0 or more, not {patience!r}", name="patience")
    backend = store.backend
    if not backend.guarantees.conditional_delete:
        raise NotSupportedError(
            f"{backend.place} cannot delete under a condition, so leases stay: about 300 bytes each, which no reader meets"
        )
    listed = [entry.key for entry in backend.list(keys.LEASES)]
    runs = set(store.iter_run_ids())  # after the leases: who makes a run with a lease has that before
    found, damaged = _read(store, [key for key in listed if keys.run_of_lease(key) not in runs])
    found = {key: one if dry_run else _abandoned(store, *one, patience) for key, one in found.items()}
    free = {key: one for key, one in found.items() if not one[0].is_held}
    kept = {key for key, one in found.items() if one[0].is_held}
    if free and not dry_run:
        chunks = Chunks(backend)
        raise_highest(backend, max(record.generation for record, _ in free.values()), chunks.pauses(keys.LEASES))
        kept.update(chunks.delete_unchanged((key, version) for key, (_, version) in free.items()))
    return SweptLeases(
        tuple(_found(one) for key, (one, _) in free.items() if key not in kept),
        tuple(_found(one) for key, (one, _) in found.items() if key in kept),
        tuple(damaged),
    )


def written_under(store: ChunkedRunLogStore, run_id: str, name: str = "executor") -> Mapping[str, int]:
    """The key of each chunk of a run, and under which generation of the lease it was last written; 0 for under none.

    Who took a lease over keeps what this said then; a chunk that has an older generation later on, and is not among those or had another one, was written by an
    earlier holder after it had lost the lease. Costs as `get_run_log_by_id`. Raises `RunLogNotFoundError`.
    """
    store.get_run_config(run_id)
    scan = Chunks(store.backend).scan(keys.prefix_of_run(run_id))
    return {stored.key: stored.chunk.envelope.fences.get(name, 0) for stored in scan.chunks}


def _read(store: ChunkedRunLogStore, wanted: list[str]) -> tuple[dict[str, tuple[Record, str]], dict[str, FormatError]]:
    """The records under these keys, with their versions; and what is damaged."""
    found: dict[str, tuple[Record, str]] = {}
    damaged: dict[str, FormatError] = {}
    ours = [key for key in wanted if keys.run_of_lease(key) is not None]
    for key, blob in store.backend.get_many(ours):
        try:
            found[key] = decode(blob.data, key), blob.version
        except FormatError as error:
            damaged[key] = error
    return found, damaged


def _abandoned(store: ChunkedRunLogStore, record: Record, version: str, patience: float) -> tuple[Record, str]:
    """The record as it is once its holder was waited for: taken over and released where it does not renew it any more."""
    if not record.is_held or not patience:
        return record, version
    try:
        take(
            unfenced(store.backend), record.run, record.name, wait=patience, holder="sweep_leases", heartbeat=False
        ).release()
    except (LeaseHeldError, ConflictError):
        return record, version
    key = keys.lease(record.run, record.name)
    return _read(store, [key])[0].get(key, (record, version))


def _found(record: Record) -> LeaseFound:
    return LeaseFound(
        record.run, record.name, record.generation, record.is_held, record.holder, record.since, record.ttl
    )
