"""What MLflow costs through us: one ``log_metric`` of the real client, and points by the thousand.

The yardstick is a server that reads the request and answers ``{}``, spoken to by the same client in the same
process, in turns. The real client's environment is made by ``scripts/clients mlflow-3``.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import urllib3

from benchmarks import Row
from benchmarks._served import SoloServer, cpu, running, server

CALLS = 100
ROUNDS = 5
BATCHES = 300
BATCH = 1000
#: What limits the ratio.
NO_OP = "the same client, a no-op server; the rest is the store's thread, and who asks"

STUB = """
import http.server, socket, sys

class Nothing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answer = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 2\\r\\n\\r\\n{}"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(self.answer)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
print(server.server_address[1], flush=True)
server.serve_forever()
"""

#: In the job: the client against both servers in turns. Prints the median of each, in ms for one call.
CLIENT = f"""
import json, os, statistics, time
from mlflow.tracking import MlflowClient

own = os.environ["MLFLOW_RUN_ID"]
sides = {{"ours": MlflowClient(os.environ["MLFLOW_TRACKING_URI"]), "stub": MlflowClient(os.environ["STUB"])}}
spent = {{"ours": [], "stub": []}}
step = 0
for turn in range({ROUNDS} + 1):
    for name, client in sides.items():
        for _ in range({CALLS}):
            step += 1
            began = time.perf_counter()
            client.log_metric(own, "loss", 1 / step, step=step, timestamp=step)
            if turn:  # the first warms up
                spent[name].append((time.perf_counter() - began) * 1000)
print(json.dumps({{name: statistics.median(each) for name, each in spent.items()}}))
"""


def rows() -> Iterable[Row]:
    with server() as served, stub() as port:
        yield from one_by_one(served, port)
        yield from in_batches(served, port)


@contextlib.contextmanager
def stub() -> Iterator[int]:
    """The port of a server that does nothing."""
    with subprocess.Popen([sys.executable, "-c", STUB], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def one_by_one(served: SoloServer, port: int) -> Iterator[Row]:
    clients = Path(__file__).parents[1] / "scripts" / "clients"
    found = subprocess.run([clients, "mlflow-3"], stdout=subprocess.PIPE, text=True, check=True).stdout
    host = {"python": f"{found.strip()}/python", "path": ["/usr/bin", "/bin"]}
    job = served.job("python", "-c", CLIENT, host=host, env={"STUB": f"http://127.0.0.1:{port}"})
    done = served.finished(job["id"])
    text = served.text(job["id"])
    assert done["state"] == "Stopped", text
    median = json.loads(text.splitlines()[-1])
    yield Row("mlflow.log_metric", median["ours"], "ms", median["stub"], NO_OP)


def in_batches(served: SoloServer, port: int) -> Iterator[Row]:
    # Its log would not show its token, so it goes through a file.
    waiting = (
        "import os, time; where = os.environ['GRADIENT_STORAGE_DIR'];"
        "open(where + '/token', 'w').write(os.environ['MLFLOW_TRACKING_TOKEN']);"
        "print('up', flush=True); time.sleep(600)"
    )
    with running(served, sys.executable, "-c", waiting, ready="up\n") as job_id:
        token = (served.storage() / "token").read_text()
        assert served.runtime is not None
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        path = "/mlflow/api/2.0/mlflow/runs/log-batch"
        assert served.process is not None
        ours, nothing, spent = [], [], []
        for turn in range(3):  # in turns
            bodies = [batch(job_id, turn * BATCHES + n) for n in range(BATCHES)]
            before = cpu(served.process.pid)
            ours.append(sent(f"{served.runtime.url}{path}", headers, bodies))
            spent.append(cpu(served.process.pid) - before)
            nothing.append(sent(f"http://127.0.0.1:{port}{path}", headers, bodies))
        answer = served.request("GET", f"/jobs/{job_id}/metrics").json()["items"]
        stored = sum(each["count"] for each in answer if each["kind"] == "custom")
        assert stored == 3 * BATCHES * BATCH, f"{stored} points are stored"
        points = BATCHES * BATCH
        yield Row(
            "log-batch of 1,000 metrics, plain HTTP", points / statistics.median(ours), "points/s",
            points / statistics.median(nothing), "a no-op server; ours is one core's decoding and storing",
        )  # fmt: skip
        per_batch = statistics.median(spent) / BATCHES * 1000
        yield Row(
            "log-batch of 1,000 metrics: server CPU", per_batch, "ms", 10.0, "100,000 points/s of one core"
        )


def batch(run_id: str, number: int) -> bytes:
    first = number * 100
    metrics = [
        {"key": f"m{n % 10}", "value": n / 7, "timestamp": 1_700_000_000_000, "step": first + n // 10}
        for n in range(BATCH)
    ]  # fmt: skip
    return json.dumps({"run_id": run_id, "metrics": metrics}).encode()


def sent(url: str, headers: dict[str, str], bodies: list[bytes]) -> float:
    """Seconds for all of them, one after the other over one connection."""
    pool = urllib3.PoolManager(1)
    began = time.perf_counter()
    for body in bodies:
        answer = pool.request("POST", url, body=body, headers=headers)
        assert answer.status == 200, answer.data
    return time.perf_counter() - began
