"""The tables, as SQLAlchemy sees them. ``migrations/`` makes them; a test holds the two together.

Times are integer µs UTC. Order comes from ``seq`` columns, never from times. Lists and structs that
are only ever read whole are JSON in one column.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)  # fmt: skip

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

facts = Table(
    "facts", metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)  # fmt: skip

users = Table(
    "users", metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    # Who this is to whoever logs people in; unique there, and never re-used here.
    Column("external", String, nullable=False, unique=True),
    Column("created_us", Integer, nullable=False),
)  # fmt: skip

projects = Table(
    "projects", metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("owner", String, nullable=False),
    Column("name", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_us", Integer, nullable=False),
    Column("deleting", Boolean, nullable=False, default=False),
    Column("last_number", Integer, nullable=False, default=0),
    UniqueConstraint("owner", "name"),
    sqlite_autoincrement=True,
)  # fmt: skip

members = Table(
    "members", metadata,
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("principal", String, primary_key=True),
    Column("role", String, nullable=False),
)  # fmt: skip

blobs = Table(
    "blobs", metadata,
    # One row per owner: a digest is present for whoever has shown the bytes, and for nobody else.
    Column("owner", String, primary_key=True),
    Column("digest", String, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("created_us", Integer, nullable=False),
    Index(None, "digest"),
)  # fmt: skip

snapshots = Table(
    "snapshots", metadata,
    Column("owner", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("files", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("created_us", Integer, nullable=False),
    Index(None, "id"),
)  # fmt: skip

checkouts = Table(
    "checkouts", metadata,
    # What a commit of a repository became for an owner. Goes with its snapshot.
    Column("owner", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("snapshot", String, nullable=False),
    Column("warnings", Text, nullable=False),
    Column("created_us", Integer, nullable=False),
    ForeignKeyConstraint(["owner", "snapshot"], ["snapshots.owner", "snapshots.id"], ondelete="CASCADE"),
    Index("ix_checkouts_owner", "owner", "snapshot"),
)  # fmt: skip

jobs = Table(
    "jobs", metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("owner", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("created_us", Integer, nullable=False),
    Column("command", Text, nullable=False),
    Column("snapshot", String, nullable=False),
    Column("machine_type", String, nullable=False),
    Column("env", Text, nullable=False),
    Column("host", Text),
    Column("target", String, nullable=False),
    Column("state", String, nullable=False),
    Column("phase", String, nullable=False),
    Column("reason", Text),
    Column("exit_code", Integer),
    Column("attempt", Integer, nullable=False),
    Column("engine", String, nullable=False),
    Column("started_us", Integer),
    Column("ended_us", Integer),
    Column("warnings", Text, nullable=False),
    Column("history", Text, nullable=False),
    Column("idempotency_key", String),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("max_duration_s", Float),
    Column("tags", Text, nullable=False, server_default="[]"),
    Column("source", String, nullable=False, server_default=""),
    Column("rerun_of", String),
    Column("progress", Text),
    Column("ports", Text),
    Column("datasets", Text, nullable=False, server_default="[]"),
    UniqueConstraint("owner", "idempotency_key"),
    # A key is its sender's, whoever owns the project the job is in.
    Index("ix_jobs_created_by", "created_by", "idempotency_key"),
    Index(None, "project_id", "seq"),
    Index(None, "state", "seq"),
    # What the queue and the relist ask for is a small part of all jobs there ever were.
    Index("ix_jobs_waiting", "owner", "seq", sqlite_where=text("state = 'Pending'")),
    Index("ix_jobs_deleted", "seq", sqlite_where=text("target = 'deleted'")),
    Index(None, "snapshot"),
    Index("ix_jobs_ports", "state", sqlite_where=text("ports IS NOT NULL")),
    sqlite_autoincrement=True,
)  # fmt: skip

attempts = Table(
    "attempts", metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("key", String, nullable=False, unique=True),
    Column("engine", String, nullable=False),
    Column("created_us", Integer, nullable=False),
    Column("ended_us", Integer),
    Column("exit_code", Integer),
    # How it ended: the state and the reason the job would have had, had it been the last attempt.
    Column("state", String),
    Column("reason", Text),
    Column("started_us", Integer),
    # Decoded bytes of its log when it ended; null where that is not known.
    Column("log_bytes", Integer),
)  # fmt: skip

spent_keys = Table(
    "spent_keys", metadata,
    # Idempotency keys of jobs that were erased: a submit that is repeated late must not bring its job back.
    Column("seq", Integer, primary_key=True),
    Column("created_by", String, nullable=False),
    Column("key", String, nullable=False),
    Column("job_id", String, nullable=False),
    UniqueConstraint("created_by", "key"),
    sqlite_autoincrement=True,
)  # fmt: skip

claims = Table(
    "claims", metadata,
    # The ledger: what is taken, and by which attempt. A row goes when its task was seen to be done.
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("node", String, nullable=False),
    Column("machine_type", String, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("memory_bytes", Integer, nullable=False),
    Column("gpus", Text, nullable=False),
    Column("created_us", Integer, nullable=False),
)  # fmt: skip

artifacts = Table(
    "artifacts", metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("modified_us", Integer, nullable=False),
    Column("digest", String, nullable=False),
)  # fmt: skip

events = Table(
    "events", metadata,
    Column("seq", Integer, primary_key=True),
    Column("time_us", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("project_id", String, nullable=False),
    Column("noun", String, nullable=False),
    Column("id", String, nullable=False),
    Column("action", String, nullable=False),
    Column("resource", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)  # fmt: skip

secrets = Table(
    "secrets", metadata,
    # ``user:<id>``, ``project:<id>`` or ``group:<id>``; what is sealed is bound to it, to name and key.
    Column("owner", String, primary_key=True),
    Column("name", String, primary_key=True),
    # Of a project's only: they go with it.
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE")),
    Column("key_id", String, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("masked", Boolean, nullable=False),
    Column("created_us", Integer, nullable=False),
    Column("created_by", String, nullable=False),
    Column("changed_us", Integer, nullable=False),
    Column("changed_by", String, nullable=False),
    Index(None, "project_id"),
)  # fmt: skip

job_secrets = Table(
    "job_secrets", metadata,
    # Which secret a variable of a job's means: decided when it was sent, by who sent it.
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("variable", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("name", String, nullable=False),
    # As whom the sender was a member of the project: themselves, or a group they were in.
    Column("through", String, nullable=False),
)  # fmt: skip

datasets = Table(
    "datasets", metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("owner", String, nullable=False),
    Column("name", String, nullable=False),
    Column("description", Text, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_us", Integer, nullable=False),
    Column("last_number", Integer, nullable=False),
    UniqueConstraint("owner", "name"),
    sqlite_autoincrement=True,
)  # fmt: skip

dataset_versions = Table(
    "dataset_versions", metadata,
    Column("dataset_id", ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("snapshot", String, nullable=False),
    Column("files", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("source", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_us", Integer, nullable=False),
    Index(None, "snapshot"),
)  # fmt: skip

job_datasets = Table(
    "job_datasets", metadata,
    # Which versions keep their files for a job. What the job itself says stands in its own row.
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("dataset_id", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("snapshot", String, nullable=False),
    Index(None, "snapshot"),
    Index("ix_job_datasets_dataset_id", "dataset_id", "version"),
)  # fmt: skip

tokens = Table(
    "tokens", metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", String, nullable=False),
    # SHA-256 of the token, hexadecimal. The token itself is stored nowhere.
    Column("digest", String, nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE")),
    # The token it was made with: it ends with that one.
    Column("parent", ForeignKey("tokens.id", ondelete="CASCADE")),
    Column("created_us", Integer, nullable=False),
    Column("expires_us", Integer),
    Column("last_used_us", Integer),
    Column("revoked_us", Integer),
    Index(None, "user_id"),
    Index(None, "parent"),
    Index(None, "project_id"),
    sqlite_autoincrement=True,
)  # fmt: skip

audit = Table(
    "audit", metadata,
    # No foreign keys: it is kept when what it speaks of is gone. A trigger refuses every change of a row.
    Column("seq", Integer, primary_key=True),
    Column("time_us", Integer, nullable=False),
    Column("action", String, nullable=False),
    Column("result", String, nullable=False),
    Column("noun", String, nullable=False),
    Column("id", String, nullable=False),
    Column("user_id", String, nullable=False),
    Column("token_id", String, nullable=False),
    Column("attempt", String, nullable=False),
    Column("address", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("detail", Text, nullable=False),
    Index(None, "time_us"),
    sqlite_autoincrement=True,
)  # fmt: skip

# What runs say of themselves, as MLflow's clients send it. Metrics are not here but in files of the runs.

runs = Table(
    "runs", metadata,
    # A job's own run bears the job's id, and has a row from the first thing that was logged on. Every other
    # one is a tracking run: begun inside a job (``job_id``), or by a person (null).
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE")),
    # Whose words they are: what an earlier attempt has said is not the job's any more.
    Column("attempt", Integer, nullable=False),
    # Of a job's own run null, unless it was given one beside the job's.
    Column("name", String),
    Column("status", String, nullable=False),
    Column("user", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_us", Integer, nullable=False),
    Column("start_us", Integer, nullable=False),
    Column("end_us", Integer),
    Column("deleted_us", Integer),
    Index(None, "project_id", "start_us"),
    Index(None, "job_id"),
    sqlite_autoincrement=True,
)  # fmt: skip

run_params = Table(
    "run_params", metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip

run_tags = Table(
    "run_tags", metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip

run_inputs = Table(
    "run_inputs", metadata,
    # The data sets a run has read, as its client describes them.
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("digest", String, primary_key=True),
    Column("source_type", String, nullable=False),
    Column("source", Text, nullable=False),
    Column("schema", Text),
    Column("profile", Text),
    Column("tags", Text, nullable=False),
)  # fmt: skip

run_models = Table(
    "run_models", metadata,
    # Which logged models a run has read or made.
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("model_id", String, primary_key=True),
    Column("direction", String, primary_key=True),
    Column("step", Integer, nullable=False),
)  # fmt: skip

project_tags = Table(
    "project_tags", metadata,
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip

logged_models = Table(
    "logged_models", metadata,
    # MLflow's logged models. Their files lie with their run's, or, where there is none, in a place of their
    # own.
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE")),
    Column("name", String, nullable=False),
    Column("model_type", String, nullable=False),
    Column("status", String, nullable=False),
    Column("params", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("created_us", Integer, nullable=False),
    Column("updated_us", Integer, nullable=False),
    Index(None, "project_id", "seq"),
    Index(None, "run_id"),
    sqlite_autoincrement=True,
)  # fmt: skip
