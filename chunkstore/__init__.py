"""chunkstore: run logs of data pipelines as chunks, safe for any number of parallel writers.

>>> store = chunkstore.open("runs/")
>>> store.create_run_log("nightly-1")
"""

from chunkstore.compaction import Compaction
from chunkstore.config import Settings
from chunkstore.config import open_store as open  # noqa: A004  the module's name says what is opened: chunkstore.open
from chunkstore.errors import (
    AlreadyExistsError,
    BackendUnavailableError,
    BranchLogNotFoundError,
    ChunkStoreError,
    ConflictError,
    FormatError,
    InvalidInputError,
    JobLogNotFoundError,
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
from chunkstore.reading import Finding, Parameters, Reading
from chunkstore.store import ChunkedRunLogStore, StoreSettings

__all__ = [
    "TERMINAL",
    "AlreadyExistsError",
    "BackendUnavailableError",
    "BranchLog",
    "BranchLogNotFoundError",
    "ChunkStoreError",
    "ChunkedRunLogStore",
    "CodeIdentity",
    "Compaction",
    "ConflictError",
    "DataCatalog",
    "Finding",
    "FormatError",
    "InvalidInputError",
    "JobLog",
    "JobLogNotFoundError",
    "JsonParameter",
    "MetricParameter",
    "NewerFormatError",
    "NotFoundError",
    "NotSupportedError",
    "ObjectNotFoundError",
    "ObjectParameter",
    "ParameterNotFoundError",
    "Parameters",
    "Reading",
    "RunLog",
    "RunLogExistsError",
    "RunLogNotFoundError",
    "Settings",
    "Status",
    "StepAttempt",
    "StepLog",
    "StepLogNotFoundError",
    "StorageFullError",
    "StoreSettings",
    "WriteStateUnknownError",
    "open",
]
