"""What Gradient's own command line understood and this one does not: recognised, and refused with a way on.

Only what cannot mean anything here stands in this list. Everything else is an alias where it is used.
"""

from __future__ import annotations

from typing import NamedTuple


class Refusal(NamedTuple):
    """``message`` is one sentence, ``next`` what to do instead."""

    message: str
    next: str


_CONTAINER = Refusal(
    "Jobs run with the Python of this command, not in a container of their own.",
    "Leave it out; what the job needs has to be installed here.",
)
_REGISTRY = Refusal("No image is fetched here, so no registry is logged in to.", "Leave it out.")
_CLUSTER = Refusal(
    "There are no clusters to choose from: a job goes to the server that the command speaks to.",
    "gradient login URL names another server.",
)
_IMAGE = Refusal("No image is built here.", "Install what the Dockerfile does, and leave it out.")
_MODEL = Refusal("There is no model repository yet.", "Leave the model in $GRADIENT_ARTIFACTS_DIR.")
_EXPERIMENT = Refusal("There are no experiments yet.", "Tags hold jobs together: --tag NAME.")
_DATASET = Refusal(
    "A job names a dataset that is here already; it fetches none.",
    "gradient datasets create NAME --from https://..., then --dataset NAME",
)
_BUCKET = Refusal(
    "No bucket is opened here, and no key to one is kept with a job.",
    "gradient datasets create NAME --from DIR, or an https address that needs none; then --dataset NAME",
)
_VOLUME = Refusal(
    "Datasets are read where they lie, so there is no volume to choose.", "Leave it out: --dataset NAME"
)

#: By the option's name in small letters, without its dashes.
OPTIONS: dict[str, Refusal] = {
    "container": _CONTAINER,
    "containeruser": _CONTAINER,
    "registryusername": _REGISTRY,
    "registrypassword": _REGISTRY,
    "registryurl": _REGISTRY,
    "registrytarget": _REGISTRY,
    "registrytargetusername": _REGISTRY,
    "registrytargetpassword": _REGISTRY,
    "usedockerfile": _IMAGE,
    "reldockerfilepath": _IMAGE,
    "dockerfilepath": _IMAGE,
    "buildonly": _IMAGE,
    "cluster": _CLUSTER,
    "clusterid": _CLUSTER,
    "nodeattrs": Refusal(
        "Machines are chosen by their type, not by attributes.", "gradient machineTypes lists them."
    ),
    "ispublic": Refusal(
        "Nothing is public here.", "Share the project: gradient projects members add PROJECT PERSON."
    ),
    "ispreemptible": Refusal(
        "No machine here is taken away from a job that runs.", "Leave it out; --retries N starts it again."
    ),
    "startedbyuserid": Refusal("A job is its sender's.", "--apiKey KEY sends it as somebody else."),
    "workingdirectory": Refusal(
        "A job's command begins in its workspace.",
        "Change the directory in the command: sh -c 'cd DIR && ...', or send that one: --workspace DIR.",
    ),
    "artifactdirectory": Refusal(
        "Artifacts are collected from one place.", "Write them to $GRADIENT_ARTIFACTS_DIR, or /artifacts."
    ),
    "dataseturi": _DATASET,
    "datasetname": Refusal("Here it is called --dataset.", "--dataset NAME, or --dataset NAME:VERSION"),
    "datasetversionid": Refusal("A version is named with its dataset.", "--dataset NAME:VERSION"),
    "datasetetag": Refusal("A version is named with its dataset.", "--dataset NAME:VERSION"),
    "datasetawsaccesskeyid": _BUCKET,
    "datasetawssecretaccesskey": _BUCKET,
    "datasetvolumekind": _VOLUME,
    "datasetvolumesize": _VOLUME,
    "experimentid": _EXPERIMENT,
    "modeltype": _MODEL,
    "modelpath": _MODEL,
    "tensorboard": Refusal(
        "No TensorBoard is started for a job.", "Write its files to $GRADIENT_ARTIFACTS_DIR and fetch them."
    ),
    "sharedmemmbytes": Refusal("A job has the shared memory of its machine.", "Leave it out."),
    "codecommit": Refusal(
        "The commit is recorded by itself when a repository is named.",
        "--workspace git+https://HOST/REPO@COMMIT",
    ),
    "tail": Refusal("Here it is called --follow.", "gradient jobs create --follow, or gradient run."),
    "offset": Refusal("A list is read from its beginning.", "--limit N shows more of it, --all the whole."),
    "line": Refusal("A log is shown from its beginning.", "gradient jobs logs JOB | tail -n 20"),
    "shutdowntimeout": Refusal("A job has a longest run.", "--maxDuration 6h"),
}

_NOT_YET = "gradient run sends a directory away as a job; gradient --help shows the rest."

#: By the first word of a command line.
VERBS: dict[str, Refusal] = {
    "experiments": Refusal("There are no experiments yet.", "Jobs with a tag: gradient jobs list --tag NAME"),
    "hyperparameters": Refusal("There is no search for hyperparameters yet.", _NOT_YET),
    "notebooks": Refusal("Notebooks are JupyterLab's, not this command's.", _NOT_YET),
    "models": Refusal("There is no model repository yet.", "gradient jobs artifacts download JOB"),
    "deployments": Refusal("There are no deployments yet.", _NOT_YET),
    "tensorboards": Refusal("There are no TensorBoards yet.", "gradient jobs artifacts download JOB"),
    "machines": Refusal("Machines are not rented here.", "gradient machineTypes shows what jobs run on."),
    "clusters": _CLUSTER,
}
