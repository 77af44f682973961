"""MLflow's wire: what its clients send and expect (``/api/2.0/mlflow``).

Requests are read leniently, as protobuf's JSON is: unknown fields are ignored, numbers may come as strings,
``null`` is as good as nothing. Times are milliseconds. What JSON has no number for is ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from gradient_jupyter.resources.tracking import RunStatus

#: MLflow's own limits.
MOST_METRICS = 1000
MOST_PARAMS = 100
MOST_TAGS = 100
LONGEST_KEY = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
BODY = 1_000_000
MOST_RESULTS = 50_000
#: Ours. Experiments that one search names.
MOST_IDS = 1000
#: Of one data set its source, schema and profile, each; all data sets of one run together.
LONGEST_DESCRIPTION = 65_536
MOST_DESCRIPTIONS = 4 * 2**20

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]
Ms = Annotated[int, msgspec.Meta(ge=0, le=2**63 // 1000 - 1)]
Number = float | str


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """The base of what is sent: unknown fields are ignored."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of what is answered: what is not set is left out, as protobuf's JSON does."""


class Nothing(Answer, frozen=True, kw_only=True):
    """``{}``"""


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every refusal. ``code`` is our own, stable one."""

    error_code: str
    message: str
    code: str


class Pair(Wire, frozen=True, kw_only=True):
    key: str
    value: str | None = ""

    @property
    def text(self) -> str:
        return self.value or ""


class Metric(msgspec.Struct, gc=False, kw_only=True):
    """Not frozen, which would cost time: a thousand of them come with one request."""

    key: str
    value: float
    timestamp: Ms | None = None
    step: Int64 | None = None


# Runs.


class OfRun(Wire, frozen=True, kw_only=True):
    """A request about a run. Old clients call its id ``run_uuid``."""

    run_id: str | None = None
    run_uuid: str | None = None

    @property
    def run(self) -> str:
        return self.run_id or self.run_uuid or ""


class CreateRun(Wire, frozen=True, kw_only=True):
    experiment_id: str | None = None
    user_id: str | None = None
    run_name: str | None = None
    start_time: Ms | None = None
    tags: tuple[Pair, ...] | None = None


class UpdateRun(OfRun, frozen=True, kw_only=True):
    status: RunStatus | int | None = None
    end_time: Ms | None = None
    run_name: str | None = None


class LogMetric(OfRun, frozen=True, kw_only=True):
    key: str
    value: float
    timestamp: Ms | None = None
    step: Int64 | None = None


class LogParam(OfRun, frozen=True, kw_only=True):
    key: str
    value: str | None = ""


class SetTag(OfRun, frozen=True, kw_only=True):
    key: str
    value: str | None = ""


class DeleteTag(OfRun, frozen=True, kw_only=True):
    key: str


class LogBatch(OfRun, frozen=True, kw_only=True):
    metrics: list[Metric] | None = None
    params: tuple[Pair, ...] | None = None
    tags: tuple[Pair, ...] | None = None


class Dataset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None


class DatasetInput(msgspec.Struct, frozen=True, kw_only=True):
    dataset: Dataset
    tags: tuple[Pair, ...] | None = ()


class ModelInput(msgspec.Struct, frozen=True, kw_only=True):
    model_id: str


class ModelOutput(msgspec.Struct, frozen=True, kw_only=True):
    model_id: str
    step: Int64 | None = 0


class LogInputs(OfRun, frozen=True, kw_only=True):
    datasets: tuple[DatasetInput, ...] | None = None
    models: tuple[ModelInput, ...] | None = None


class LogOutputs(OfRun, frozen=True, kw_only=True):
    models: tuple[ModelOutput, ...] | None = None


class LogModel(OfRun, frozen=True, kw_only=True):
    model_json: str


class SearchRuns(Wire, frozen=True, kw_only=True):
    experiment_ids: tuple[str, ...] | None = None
    filter: str | None = None
    run_view_type: str | int | None = None
    max_results: int | None = None
    order_by: tuple[str, ...] | None = None
    page_token: str | None = None


class History(OfRun, frozen=True, kw_only=True):
    metric_key: str
    page_token: str | None = None
    max_results: int | None = None


class BulkHistory(Wire, frozen=True, kw_only=True):
    run_ids: str | tuple[str, ...]
    metric_key: str
    start_step: Int64 | None = None
    end_step: Int64 | None = None
    max_results: int | None = None


class ListArtifacts(OfRun, frozen=True, kw_only=True):
    path: str | None = None
    page_token: str | None = None


class Path(Wire, frozen=True, kw_only=True):
    path: str | None = None


class RunInfo(Answer, frozen=True, kw_only=True):
    run_id: str
    run_uuid: str
    run_name: str
    experiment_id: str
    user_id: str
    status: str
    start_time: int
    end_time: int | None = None
    artifact_uri: str
    lifecycle_stage: str


class MetricAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    key: str
    value: Number
    timestamp: int
    step: int
    run_id: str | None = None


class RunData(Answer, frozen=True, kw_only=True):
    metrics: tuple[MetricAnswer, ...] = ()
    params: tuple[Pair, ...] = ()
    tags: tuple[Pair, ...] = ()


class RunInputs(Answer, frozen=True, kw_only=True):
    dataset_inputs: tuple[DatasetInput, ...] = ()
    model_inputs: tuple[ModelInput, ...] = ()


class RunOutputs(Answer, frozen=True, kw_only=True):
    model_outputs: tuple[ModelOutput, ...] = ()


class Run(Answer, frozen=True, kw_only=True):
    info: RunInfo
    data: RunData
    inputs: RunInputs
    outputs: RunOutputs


class RunAnswer(Answer, frozen=True, kw_only=True):
    run: Run


class RunInfoAnswer(Answer, frozen=True, kw_only=True):
    run_info: RunInfo


class RunsAnswer(Answer, frozen=True, kw_only=True):
    runs: tuple[Run, ...] = ()
    next_page_token: str | None = None


class MetricsAnswer(Answer, frozen=True, kw_only=True):
    metrics: tuple[MetricAnswer, ...] = ()
    next_page_token: str | None = None


class FileInfo(Answer, frozen=True, kw_only=True):
    path: str
    is_dir: bool
    file_size: int | None = None


class FilesAnswer(Answer, frozen=True, kw_only=True):
    root_uri: str | None = None
    files: tuple[FileInfo, ...] = ()


# Experiments: our projects.


class OfExperiment(Wire, frozen=True, kw_only=True):
    experiment_id: str


class CreateExperiment(Wire, frozen=True, kw_only=True):
    name: str
    artifact_location: str | None = None
    tags: tuple[Pair, ...] | None = None


class ExperimentByName(Wire, frozen=True, kw_only=True):
    experiment_name: str


class UpdateExperiment(OfExperiment, frozen=True, kw_only=True):
    new_name: str | None = None


class SetExperimentTag(OfExperiment, frozen=True, kw_only=True):
    key: str
    value: str | None = ""


class DeleteExperimentTag(OfExperiment, frozen=True, kw_only=True):
    key: str


class SearchExperiments(Wire, frozen=True, kw_only=True):
    max_results: int | None = None
    page_token: str | None = None
    filter: str | None = None
    order_by: str | tuple[str, ...] | None = None
    view_type: str | int | None = None


class Experiment(Answer, frozen=True, kw_only=True):
    experiment_id: str
    name: str
    artifact_location: str
    lifecycle_stage: str
    creation_time: int
    last_update_time: int
    tags: tuple[Pair, ...] = ()


class ExperimentAnswer(Answer, frozen=True, kw_only=True):
    experiment: Experiment


class ExperimentIdAnswer(Answer, frozen=True, kw_only=True):
    experiment_id: str


class ExperimentsAnswer(Answer, frozen=True, kw_only=True):
    experiments: tuple[Experiment, ...] = ()
    next_page_token: str | None = None


# Logged models.


class CreateLoggedModel(Wire, frozen=True, kw_only=True):
    experiment_id: str | None = None
    name: str | None = None
    model_type: str | None = None
    source_run_id: str | None = None
    params: tuple[Pair, ...] | None = None
    tags: tuple[Pair, ...] | None = None


class FinalizeLoggedModel(Wire, frozen=True, kw_only=True):
    status: str | int


class LoggedModelTags(Wire, frozen=True, kw_only=True):
    tags: tuple[Pair, ...] | None = None


class LoggedModelParams(Wire, frozen=True, kw_only=True):
    params: tuple[Pair, ...] | None = None


class ModelOrder(Wire, frozen=True, kw_only=True):
    field_name: str
    ascending: bool | None = True


class SearchLoggedModels(Wire, frozen=True, kw_only=True):
    experiment_ids: tuple[str, ...] | None = None
    filter: str | None = None
    max_results: int | None = None
    order_by: tuple[ModelOrder, ...] | None = None
    page_token: str | None = None


class ModelFiles(Wire, frozen=True, kw_only=True):
    artifact_directory_path: str | None = None


class AllowDeleted(Wire, frozen=True, kw_only=True):
    allow_deleted: bool | None = None


class LoggedModelInfo(Answer, frozen=True, kw_only=True):
    model_id: str
    experiment_id: str
    name: str
    creation_timestamp_ms: int
    last_updated_timestamp_ms: int
    artifact_uri: str
    status: str
    model_type: str = ""
    source_run_id: str | None = None
    tags: tuple[Pair, ...] = ()


class LoggedModelData(Answer, frozen=True, kw_only=True):
    params: tuple[Pair, ...] = ()


class LoggedModel(Answer, frozen=True, kw_only=True):
    info: LoggedModelInfo
    data: LoggedModelData


class LoggedModelAnswer(Answer, frozen=True, kw_only=True):
    model: LoggedModel


class LoggedModelsAnswer(Answer, frozen=True, kw_only=True):
    models: tuple[LoggedModel, ...] = ()
    next_page_token: str | None = None


def number(value: float) -> Number:
    """As protobuf's JSON writes it."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
