"""A bucket that keeps the old versions of its objects: nothing that a store does is different there."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkstore import ChunkedRunLogStore, RunLogNotFoundError
from chunkstore.maintenance import verify
from places import again, in_bucket
from servers import S3Server


@pytest.fixture
def store(conditional_s3_server: S3Server, tmp_path: Path) -> ChunkedRunLogStore:
    bucket = conditional_s3_server.new_bucket()
    conditional_s3_server.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return ChunkedRunLogStore(in_bucket(conditional_s3_server, tmp_path, bucket=bucket))


def test_runs_are_written_changed_packed_deleted_and_made_again_as_without(store: ChunkedRunLogStore) -> None:
    store.create_run_log("nightly", tag="first")
    for status in ("PROCESSING", "SUCCESS"):
        step = store.create_step_log("train", "train")
        step.status = status
        store.add_step_log(step, "nightly")
        store.set_parameters("nightly", {"state": status})
    again(store).set_parameters("nightly", {"state": "of another process"})
    store.update_run_log_status("nightly", "SUCCESS")
    store.compact("nightly")
    read = again(store).get_run_log_by_id("nightly")
    assert (read.steps["train"].status, read.parameters) == ("SUCCESS", {"state": "of another process"})

    store.delete_run_log("nightly")
    with pytest.raises(RunLogNotFoundError):
        again(store).get_run_log_by_id("nightly")
    # Not `list_run_ids`: such a bucket of moto or MinIO goes on listing folders that hold nothing but old versions.
    assert again(store).find_runs().runs == ()
    assert {one.severity for one in verify(again(store))} <= {"notice"}

    again(store).create_run_log("nightly", tag="second")
    read = again(store).get_run_log_by_id("nightly")
    assert (read.tag, read.steps, read.parameters) == ("second", {}, {})


def test_the_bucket_keeps_what_was_there_before(store: ChunkedRunLogStore, conditional_s3_server: S3Server) -> None:
    """So that the test above is about such a bucket."""
    store.create_run_log("nightly")
    store.update_run_log_status("nightly", "PROCESSING")
    versions = conditional_s3_server.client().list_object_versions(Bucket=store.backend.settings.bucket)["Versions"]  # type: ignore[attr-defined]
    assert len([one for one in versions if one["Key"].endswith("/nightly/run.json")]) == 2
