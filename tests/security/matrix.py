"""Who may do what: every route, and what each role is answered. Written by hand, read by ``test_matrix``.

One line a route: method, address, then one status for each role in the order of ``people.ROLES``; before them
that of ``NOBODY`` (no token, a wrong, an expired, a revoked one). What is in braces is put in from
``people.ids``; what begins with ``new-`` is made for each request that succeeds, because that changes it (a
project always: ``inner`` opens another).

A route that is not here fails the test. To add one: write its line, and its body into ``BODIES`` if it takes
one.
"""

from __future__ import annotations

from people import CANARY, packed

_MLFLOW = "/mlflow/api/2.0/mlflow"

TABLE = """
#                                             nobody  stranger viewer member admin owner operator reader scraper inner outer job other fenced push
GET    /api/v1/hello?nonce=0123456789abcdef    200     200 200 200 200 200 200 200 200 200 200 200 200 200 200
GET    /health/live                            200     200 200 200 200 200 200 200 200 200 200 200 200 200 200
GET    /health/ready                           200     200 200 200 200 200 200 200 200 200 200 200 200 200 200
GET    /metrics                                401     403 403 403 403 403 200 403 200 403 403 403 403 409 401
GET    /api/v1/server                          401     200 200 200 200 200 200 200 403 200 200 403 403 409 401
GET    /api/v1/openapi.json                    401     200 200 200 200 200 200 200 403 200 200 403 403 409 401
POST   /api/v1/server/stop                     401     403 403 403 403 403 202 403 403 403 403 403 403 409 401
GET    /api/v1/machine-types                   401     200 200 200 200 200 200 200 403 200 200 403 403 409 401
GET    /api/v1/events                          401     200 200 200 200 200 200 200 403 200 200 403 403 409 401
GET    /api/v1/admin/disk                      401     403 403 403 403 403 200 403 403 403 403 403 403 409 401
POST   /api/v1/admin/collect                   401     403 403 403 403 403 200 403 403 403 403 403 403 409 401
GET    /api/v1/admin/doctor                    401     403 403 403 403 403 200 403 403 403 403 403 403 409 401
GET    /api/v1/admin/audit                     401     403 403 403 403 403 200 403 403 403 403 403 403 409 401
GET    /api/v1/tokens                          401     200 200 200 200 200 200 403 403 200 200 403 403 409 401
POST   /api/v1/tokens                          401     201 201 201 201 201 201 403 403 403 403 403 403 409 401
DELETE /api/v1/tokens/{new-token}              401     404 404 404 404 204 404 403 403 404 404 403 403 409 401
GET    /api/v1/projects                        401     200 200 200 200 200 200 200 403 200 200 403 403 409 401
POST   /api/v1/projects                        401     201 201 201 201 201 201 403 403 403 403 403 403 409 401
GET    /api/v1/projects/{project}              401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
DELETE /api/v1/projects/{new-project}          401     404 403 403 202 202 404 403 403 404 404 403 403 409 401
GET    /api/v1/jobs                            401     200 200 200 200 200 200 200 403 200 200 403 403 409 401
POST   /api/v1/jobs                            401     404 404 404 404 201 404 403 403 404 404 403 403 409 401
GET    /api/v1/jobs/{running}                  401     404 200 200 200 200 404 200 403 200 404 200 403 409 401
PATCH  /api/v1/jobs/{done}                     401     404 403 200 200 200 404 403 403 200 404 403 403 409 401
POST   /api/v1/jobs/{done}/rerun               401     404 403 201 201 201 404 403 403 201 404 403 403 409 401
GET    /api/v1/jobs/{done}/attempts            401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
PUT    /api/v1/jobs/{running}/progress         401     404 403 202 202 202 404 403 403 202 404 202 403 409 401
POST   /api/v1/jobs/{done}/stop                401     404 403 202 202 202 404 403 403 202 404 403 403 409 401
DELETE /api/v1/jobs/{new-job}                  401     404 403 403 202 202 404 403 403 202 404 403 403 409 401
GET    /api/v1/jobs/{done}/logs                401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
GET    /api/v1/jobs/{done}/log                 401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
GET    /api/v1/jobs/{done}/artifacts           401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
GET    /api/v1/jobs/{done}/artifacts.zip       401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
GET    /api/v1/jobs/{done}/artifacts/{file}    401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
DELETE /api/v1/jobs/{new-job}/artifacts/{file} 401     404 403 204 204 204 404 403 403 204 404 403 403 409 401
POST   /api/v1/snapshots/missing               401     200 200 200 200 200 200 403 403 200 200 403 403 409 401
POST   /api/v1/blobs                           401     201 201 201 201 201 201 403 403 201 201 403 403 409 401
POST   /api/v1/snapshots                       401     409 409 409 409 201 409 403 403 409 409 403 403 409 401
POST   /api/v1/snapshots/git                   401     400 400 400 400 400 400 403 403 400 400 403 403 409 401
GET    /api/v1/snapshots/{snapshot}            401     404 404 404 404 200 404 200 403 404 404 403 403 409 401
GET    /api/v1/snapshots/{snapshot}/manifest   401     404 404 404 404 200 404 200 403 404 404 403 403 409 401
GET    /api/v1/whoami                          401     200 200 200 200 200 200 200 403 200 200 403 403 409 401
PATCH  /api/v1/projects/{new-project}          401     404 403 403 200 200 404 403 403 404 404 403 403 409 401
GET    /api/v1/projects/{project}/members      401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
PUT    /api/v1/projects/{new-project}/members/{guest} 401     404 403 403 200 200 404 403 403 404 404 403 403 409 401
DELETE /api/v1/projects/{new-project}/members/{seen} 401     404 403 403 200 200 404 403 403 404 404 403 403 409 401
GET    /api/v1/secrets/user                    401     200 200 200 200 200 200 200 403 403 403 403 403 409 401
PUT    /api/v1/secrets/user/{put-secret}           401     200 200 200 200 200 200 403 403 403 403 403 403 409 401
DELETE /api/v1/secrets/user/{new-secret}       401     404 404 404 404 204 404 403 403 403 403 403 403 409 401
GET    /api/v1/projects/{project}/secrets      401     404 403 200 200 200 404 200 403 200 404 403 403 409 401
PUT    /api/v1/projects/{project}/secrets/{put-secret} 401     404 403 403 200 200 404 403 403 200 404 403 403 409 401
DELETE /api/v1/projects/{project}/secrets/{new-shared-secret} 401     404 403 403 204 204 404 403 403 204 404 403 403 409 401
GET    /api/v1/teams/{team}/secrets            401     404 404 404 404 404 404 404 403 404 404 403 403 409 401
PUT    /api/v1/teams/{team}/secrets/{put-secret}   401     404 404 404 404 404 404 403 403 404 404 403 403 409 401
DELETE /api/v1/teams/{team}/secrets/{put-secret}   401     404 404 404 404 404 404 403 403 404 404 403 403 409 401
POST   /api/v1/admin/secrets/rotate            401     403 403 403 403 403 200 403 403 403 403 403 403 409 401
GET    /api/v1/datasets                        401     200 200 200 200 200 200 200 403 200 200 403 403 409 401
POST   /api/v1/datasets                        401     201 201 201 201 201 201 403 403 403 403 403 403 409 401
POST   /api/v1/datasets/fetch                  401     400 400 400 400 400 400 403 403 403 403 403 403 409 401
GET    /api/v1/datasets/fetches/{tag}          401     404 404 404 404 404 404 404 403 404 404 403 403 409 401
GET    /api/v1/datasets/{dataset}              401     404 404 404 404 200 404 200 403 404 404 403 403 409 401
PATCH  /api/v1/datasets/{dataset}              401     404 404 404 404 200 404 403 403 404 404 403 403 409 401
DELETE /api/v1/datasets/{new-dataset}          401     404 404 404 404 200 404 403 403 404 404 403 403 409 401
GET    /api/v1/datasets/{dataset}/versions     401     404 404 404 404 200 404 200 403 404 404 403 403 409 401
POST   /api/v1/datasets/{dataset}/versions     401     404 404 404 404 201 404 403 403 404 404 403 403 409 401
GET    /api/v1/datasets/{dataset}/files        401     404 404 404 404 200 404 200 403 404 404 403 403 409 401
POST   /api/v1/jobs/{running}/metrics          401     404 403 202 202 202 404 403 403 202 404 202 403 409 401
GET    /api/v1/jobs/{running}/metrics          401     404 200 200 200 200 404 200 403 200 404 200 403 409 401
GET    /api/v1/jobs/{running}/metrics/points?key=loss 401     404 200 200 200 200 404 200 403 200 404 200 403 409 401
GET    /api/v1/jobs/{running}/metrics/buckets?key=loss 401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
GET    /api/v1/jobs/{running}/metrics/stream   401     404 200 200 200 200 404 200 403 200 404 403 403 409 401
# A push's token stands in its address: here whatever who asks bears.
PUT    /pushgateway/{bearer}/metrics/{labels}  401     401 401 401 401 401 401 401 401 401 401 401 401 401 202
POST   /pushgateway/{bearer}/metrics/{labels}  401     401 401 401 401 401 401 401 401 401 401 401 401 401 202
DELETE /pushgateway/{bearer}/metrics/{labels}  401     401 401 401 401 401 401 401 401 401 401 401 401 401 202
# Each of these under /mlflow/ajax-api/2.0 as well. A run's own token opens its own run, and what it began.
POST   /mlflow/api/2.0/mlflow/runs/log-metric  401     404 403 200 200 200 404 403 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/log-batch   401     404 403 200 200 200 404 403 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/log-parameter 401     404 403 200 200 200 404 403 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/set-tag     401     404 403 200 200 200 404 403 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/delete-tag  401     404 403 200 200 200 404 403 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/log-inputs  401     404 403 200 200 200 404 403 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/outputs     401     404 403 200 200 200 404 403 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/log-model   401     404 403 200 200 200 404 403 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/create      401     404 403 200 200 200 404 403 403 200 404 200 200 409 401
GET    /mlflow/api/2.0/mlflow/runs/get?run_id={running} 401     404 200 200 200 200 404 200 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/update      401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/search      401     200 200 200 200 200 200 200 403 200 200 200 200 409 401
POST   /mlflow/api/2.0/mlflow/runs/delete      401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
POST   /mlflow/api/2.0/mlflow/runs/restore     401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
GET    /mlflow/api/2.0/mlflow/metrics/get-history?run_id={running}&metric_key=loss 401     404 200 200 200 200 404 200 403 200 404 200 404 409 401
GET    /mlflow/api/2.0/mlflow/metrics/get-history-bulk-interval?run_ids={running}&metric_key=loss 401     404 200 200 200 200 404 200 403 200 404 200 404 409 401
POST   /mlflow/api/2.0/mlflow/experiments/create 401     200 200 200 200 200 200 403 403 403 403 200 200 409 401
GET    /mlflow/api/2.0/mlflow/experiments/get?experiment_id={project} 401     404 200 200 200 200 404 200 403 200 404 200 200 409 401
GET    /mlflow/api/2.0/mlflow/experiments/get-by-name?experiment_name={project-name} 401     404 200 200 200 200 404 200 403 200 404 200 200 409 401
POST   /mlflow/api/2.0/mlflow/experiments/search 401     200 200 200 200 200 200 200 403 200 200 200 200 409 401
GET    /mlflow/api/2.0/mlflow/experiments/search 401     200 200 200 200 200 200 200 403 200 200 200 200 409 401
POST   /mlflow/api/2.0/mlflow/experiments/update 401     404 403 403 200 200 404 403 403 404 404 403 403 409 401
POST   /mlflow/api/2.0/mlflow/experiments/delete 401     404 403 403 200 200 404 403 403 404 404 403 403 409 401
POST   /mlflow/api/2.0/mlflow/experiments/set-experiment-tag 401     404 403 200 200 200 404 403 403 200 404 403 403 409 401
POST   /mlflow/api/2.0/mlflow/experiments/delete-experiment-tag 401     404 403 200 200 200 404 403 403 200 404 403 403 409 401
GET    /mlflow/api/2.0/mlflow/artifacts/list?run_id={running} 401     404 200 200 200 200 404 200 403 200 404 200 404 409 401
GET    /mlflow/api/2.0/mlflow-artifacts/artifacts?path={notes} 401     404 200 200 200 200 404 200 403 200 404 404 404 409 401
GET    /mlflow/api/2.0/mlflow-artifacts/artifacts/{note} 401     404 200 200 200 200 404 200 403 200 404 404 404 409 401
PUT    /mlflow/api/2.0/mlflow-artifacts/artifacts/{note} 401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
DELETE /mlflow/api/2.0/mlflow-artifacts/artifacts/{new-note} 401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
POST   /mlflow/api/2.0/mlflow/logged-models    401     404 403 200 200 200 404 403 403 200 404 200 200 409 401
POST   /mlflow/api/2.0/mlflow/logged-models/search 401     200 200 200 200 200 200 200 403 200 200 200 200 409 401
GET    /mlflow/api/2.0/mlflow/logged-models/{model} 401     404 200 200 200 200 404 200 403 200 404 404 404 409 401
PATCH  /mlflow/api/2.0/mlflow/logged-models/{model} 401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
DELETE /mlflow/api/2.0/mlflow/logged-models/{new-model} 401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
PATCH  /mlflow/api/2.0/mlflow/logged-models/{model}/tags 401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
DELETE /mlflow/api/2.0/mlflow/logged-models/{model}/tags/{new-model-tag} 401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
POST   /mlflow/api/2.0/mlflow/logged-models/{model}/params 401     404 403 200 200 200 404 403 403 200 404 404 404 409 401
GET    /mlflow/api/2.0/mlflow/logged-models/{model}/artifacts/directories 401     404 200 200 200 200 404 200 403 200 404 404 404 409 401
"""  # noqa: E501

#: What is sent, by the line's method and address. A text in braces is put in; ``None``: no body.
BODIES: dict[str, object] = {
    "POST /api/v1/admin/collect": {"dry_run": True},
    "POST /api/v1/tokens": {"name": "made", "scopes": ["read"]},
    "POST /api/v1/projects": {"name": "{fresh}"},
    "POST /api/v1/jobs": {
        "command": ["true"],
        "snapshot": "{snapshot}",
        "project_id": "{project}",
        "host": {"python": "/usr/bin/python3", "path": ["/usr/bin", "/bin"]},
    },
    "PATCH /api/v1/jobs/{done}": {"tags": ["{fresh}"]},
    "POST /api/v1/jobs/{done}/rerun": {"command": ["true"]},
    "PUT /api/v1/jobs/{running}/progress": {"fraction": 0.5},
    "POST /api/v1/snapshots/missing": {
        "entries": [{"kind": "file", "path": "a.txt", "size": 39, "digest": "{blob}"}]
    },
    "POST /api/v1/snapshots": {
        "entries": [{"kind": "file", "path": "a.txt", "size": 39, "digest": "{blob}"}]
    },
    # No repository is fetched from here: what is tested is who comes as far as the address.
    "POST /api/v1/snapshots/git": {"url": "ssh://nobody.invalid/x"},
    "PATCH /api/v1/projects/{new-project}": {"name": "{fresh}"},
    "PUT /api/v1/projects/{new-project}/members/{guest}": {"role": "viewer"},
    "PUT /api/v1/secrets/user/{put-secret}": {"value": CANARY},
    "PUT /api/v1/projects/{project}/secrets/{put-secret}": {"value": CANARY},
    "PUT /api/v1/teams/{team}/secrets/{put-secret}": {"value": CANARY},
    "POST /api/v1/datasets": {"name": "{fresh-name}"},
    "POST /api/v1/datasets/fetch": {"name": "{fresh-name}", "url": "ssh://nobody.invalid/x"},
    "PATCH /api/v1/datasets/{dataset}": {"description": "{fresh}"},
    "POST /api/v1/datasets/{dataset}/versions": {"snapshot": "{snapshot}"},
    "POST /api/v1/jobs/{running}/metrics": {"points": [["loss", 0.5, 1, 1700000000000000]]},
    f"POST {_MLFLOW}/runs/log-metric": {"run_id": "{running}", "key": "loss", "value": 0.5},
    f"POST {_MLFLOW}/runs/log-batch": {
        "run_id": "{running}",
        "metrics": [{"key": "loss", "value": 0.5, "step": 2}],
        "params": [{"key": "depth", "value": "3"}],
    },
    f"POST {_MLFLOW}/runs/log-parameter": {"run_id": "{running}", "key": "depth", "value": "3"},
    f"POST {_MLFLOW}/runs/set-tag": {"run_id": "{running}", "key": "kept", "value": "{fresh}"},
    f"POST {_MLFLOW}/runs/delete-tag": {"run_id": "{running}", "key": "{new-tag}"},
    f"POST {_MLFLOW}/runs/log-inputs": {
        "run_id": "{running}",
        "datasets": [{"dataset": {"name": "d", "digest": "1", "source_type": "local", "source": "s"}}],
    },
    f"POST {_MLFLOW}/runs/outputs": {"run_id": "{running}", "models": [{"model_id": "m-1"}]},
    f"POST {_MLFLOW}/runs/log-model": {"run_id": "{running}", "model_json": "{}"},
    f"POST {_MLFLOW}/runs/create": {"experiment_id": "{project}", "run_name": "{fresh}"},
    f"POST {_MLFLOW}/runs/update": {"run_id": "{run}", "run_name": "{fresh}"},
    f"POST {_MLFLOW}/runs/search": {"experiment_ids": ["{project}"]},
    f"POST {_MLFLOW}/runs/delete": {"run_id": "{new-run}"},
    f"POST {_MLFLOW}/runs/restore": {"run_id": "{run}"},
    f"POST {_MLFLOW}/experiments/create": {"name": "{fresh}"},
    f"POST {_MLFLOW}/experiments/search": {},
    f"POST {_MLFLOW}/experiments/update": {"experiment_id": "{new-project}", "new_name": "{fresh}"},
    f"POST {_MLFLOW}/experiments/delete": {"experiment_id": "{new-project}"},
    f"POST {_MLFLOW}/experiments/set-experiment-tag": {
        "experiment_id": "{project}",
        "key": "kept",
        "value": "{fresh}",
    },
    f"POST {_MLFLOW}/experiments/delete-experiment-tag": {
        "experiment_id": "{project}",
        "key": "{new-experiment-tag}",
    },
    f"POST {_MLFLOW}/logged-models": {"experiment_id": "{project}", "name": "made"},
    f"POST {_MLFLOW}/logged-models/search": {"experiment_ids": ["{project}"]},
    f"PATCH {_MLFLOW}/logged-models/{{model}}": {"status": "LOGGED_MODEL_READY"},
    f"PATCH {_MLFLOW}/logged-models/{{model}}/tags": {"tags": [{"key": "kept", "value": "{fresh}"}]},
    f"POST {_MLFLOW}/logged-models/{{model}}/params": {"params": [{"key": "{fresh}", "value": "1"}]},
}

#: Bodies that are bytes.
DATA = {
    "POST /api/v1/blobs": packed(b"what anybody may send"),
    "PUT /pushgateway/{bearer}/metrics/{labels}": b"pushed 0.5\n",
    "POST /pushgateway/{bearer}/metrics/{labels}": b"pushed 0.5\n",
    f"PUT {_MLFLOW}-artifacts/artifacts/{{note}}": CANARY.encode(),
}

#: Fields of bodies and queries that name a thing, wherever they stand: each is tried with a thing of somebody
#: else's,
#: in ``test_matrix``. One that is not here fails the test.
FOREIGN = {
    ("POST", "/api/v1/jobs", "snapshot"),
    ("POST", "/api/v1/jobs", "project_id"),
    ("POST", "/api/v1/jobs/{job_id}/rerun", "project_id"),
    ("POST", "/api/v1/tokens", "project_id"),
    ("GET", "/api/v1/jobs", "project_id"),
    ("POST", "/api/v1/snapshots/git", "project_id"),
    ("POST", "/api/v1/datasets", "snapshot"),
    ("POST", "/mlflow/api/2.0/mlflow/logged-models", "source_run_id"),
    ("POST", "/mlflow/ajax-api/2.0/mlflow/logged-models", "source_run_id"),
}

#: They look like it, and name nothing: MLflow's clients say who they think they are.
NO_THING = {
    ("POST", "/mlflow/api/2.0/mlflow/runs/create", "user_id"),
    ("POST", "/mlflow/ajax-api/2.0/mlflow/runs/create", "user_id"),
}
