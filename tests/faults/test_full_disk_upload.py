"""T5 for what comes in through MLflow's face: the disk of the runs is full in the middle of an upload.

P12: the upload is refused with a reason, what lay there stays whole, nothing of the new file is left, and
once there is room again the next one is taken.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os

from disks import need_mounts, tmpfs
from solo import SoloServer

API = "/mlflow/api/2.0"
SIZE = 8 << 20
PIECE = b"y" * (1 << 20)


def put(server, path, pieces):
    """In chunks, so that the server does not know how much is to come."""
    connection = http.client.HTTPConnection(server.runtime.url.removeprefix("http://"), timeout=60)
    headers = {"Authorization": f"Bearer {server.runtime.token}"}
    with contextlib.closing(connection):
        with contextlib.suppress(ConnectionError):  # it answers without waiting for the rest
            connection.request("PUT", path, iter(pieces), headers, encode_chunked=True)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_a_disk_that_fills_in_the_middle_of_an_upload_refuses_it_and_leaves_nothing_of_it(tmp_path):
    need_mounts()
    server = SoloServer(tmp_path, "--isolation=none", "--GradientServer.reserve_bytes=0")
    server.data.mkdir(mode=0o700)
    with tmpfs(server.data / "runs", SIZE) as disk:
        try:
            server.start()
            made = server.request("POST", f"{API}/mlflow/runs/create", json_body={}).json()
            run = made["run"]["info"]
            base = f"{API}/mlflow-artifacts/artifacts/{run['experiment_id']}/{run['run_id']}/artifacts"
            assert put(server, f"{base}/model", [PIECE])[0] == 200
            before = disk.left
            for name in ("model", "another"):
                status, told = put(server, f"{base}/{name}", [PIECE] * 20)
                assert (status, told["error_code"], told["code"]) == (
                    507,
                    "RESOURCE_EXHAUSTED",
                    "no-space",
                ), told
                assert disk.left == before, "what had come is gone"
            assert server.request("GET", f"{base}/model").data == PIECE
            assert os.listdir(disk.path / run["run_id"] / "artifacts") == ["model"]
            # Full to the last byte: also the points of a metric, and whoever only reads.
            disk.fill()
            point = {"run_id": run["run_id"], "key": "m", "value": 1, "timestamp": 1}
            answer = server.request("POST", f"{API}/mlflow/runs/log-metric", json_body=point)
            assert (answer.status, answer.json()["error_code"]) == (507, "RESOURCE_EXHAUSTED")
            assert server.request("GET", f"{base}/model").data == PIECE
            disk.free()
            assert put(server, f"{base}/another", [PIECE] * 3)[0] == 200
            assert server.request("POST", f"{API}/mlflow/runs/log-metric", json_body=point).status == 200
        finally:
            server.stop()
