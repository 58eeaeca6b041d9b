"""chunkstore: run logs of data pipelines as chunks, safe for any number of parallel writers.

>>> store = chunkstore.open("runs/")
>>> store.create_run_log("nightly-1")
"""

from chunkstore.asynchronous import AsyncChunkedRunLogStore, open_async
from chunkstore.compaction import Compaction
from chunkstore.config import open_store as open  # noqa: A004  the module's name says what is opened: chunkstore.open
from chunkstore.configfile import open_config
from chunkstore.environment import open_from_environment
from chunkstore.errors import (
    AlreadyExistsError,
    BackendUnavailableError,
    BranchLogNotFoundError,
    ChunkStoreError,
    ConflictError,
    FormatError,
    InvalidInputError,
    JobLogNotFoundError,
    LeaseError,
    LeaseHeldError,
    LeaseLostError,
    NewerFormatError,
    NotFoundError,
    NotSupportedError,
    ObjectNotFoundError,
    ParameterNotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLogNotFoundError,
    StorageFullError,
    WriteStateUnknownError,
)
from chunkstore.following import RunChange
from chunkstore.leases import Lease, WorkerLease
from chunkstore.models import (
    TERMINAL,
    BranchLog,
    CodeIdentity,
    DataCatalog,
    JobLog,
    JsonParameter,
    MetricParameter,
    ObjectParameter,
    RunLog,
    Status,
    StepAttempt,
    StepLog,
)
from chunkstore.queries import RunFilter, RunPage
from chunkstore.reading import Finding, Parameters, Reading
from chunkstore.reindexing import ReindexReport
from chunkstore.settings import DatabaseSettings, LocalSettings, MemorySettings, S3StoreSettings, Settings
from chunkstore.store import ChunkedRunLogStore, StoreSettings

__all__ = [
    "TERMINAL",
    "AlreadyExistsError",
    "AsyncChunkedRunLogStore",
    "BackendUnavailableError",
    "BranchLog",
    "BranchLogNotFoundError",
    "ChunkStoreError",
    "ChunkedRunLogStore",
    "CodeIdentity",
    "Compaction",
    "ConflictError",
    "DataCatalog",
    "DatabaseSettings",
    "Finding",
    "FormatError",
    "InvalidInputError",
    "JobLog",
    "JobLogNotFoundError",
    "JsonParameter",
    "Lease",
    "LeaseError",
    "LeaseHeldError",
    "LeaseLostError",
    "LocalSettings",
    "MemorySettings",
    "MetricParameter",
    "NewerFormatError",
    "NotFoundError",
    "NotSupportedError",
    "ObjectNotFoundError",
    "ObjectParameter",
    "ParameterNotFoundError",
    "Parameters",
    "Reading",
    "ReindexReport",
    "RunChange",
    "RunFilter",
    "RunLog",
    "RunLogExistsError",
    "RunLogNotFoundError",
    "RunPage",
    "S3StoreSettings",
    "Settings",
    "Status",
    "StepAttempt",
    "StepLog",
    "StepLogNotFoundError",
    "StorageFullError",
    "StoreSettings",
    "WorkerLease",
    "WriteStateUnknownError",
    "open",
    "open_async",
    "open_config",
    "open_from_environment",
]
