"""The way in: ``Client()``.

from gradient_jupyter import Client

client = Client()
job = client.jobs.create(["python", "train.py"])
for line in job.logs(follow=True):
    print(line.text, end="")
job.artifacts.download("results")
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from gradient_jupyter.client.admin import Admin
from gradient_jupyter.client.jobs import Jobs
from gradient_jupyter.client.locate import Named, locate
from gradient_jupyter.client.machine_types import MachineTypes
from gradient_jupyter.client.projects import Projects
from gradient_jupyter.client.secrets import Secrets
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.server import ServerInfo


class Client:
    """Speaks to one Gradient server.

    ``url`` and ``token`` name it; else ``GRADIENT_URL`` and ``GRADIENT_TOKEN`` do; else it is your own
    solo server, which is started when it does not run (not with ``start=False``). May be used from several
    threads.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, start: bool = True) -> None:
        self._locator = locate(url, token, start=start)
        self._transport = Transport(self._locator)
        self._transport.address  # noqa: B018 - found now, so that what is wrong is said here
        self.jobs = Jobs(self._transport)
        self.projects = Projects(self._transport)
        self.machine_types = MachineTypes(self._transport)
        self.secrets = Secrets(self._transport)
        self.admin = Admin(self._transport)

    @property
    def url(self) -> str:
        """Where the server is now; a solo server has another address after each start."""
        return self._transport.address.url

    def server(self) -> ServerInfo:
        """What the server says of itself."""
        return self._transport.request("GET", "/server", ServerInfo)

    def stop_server(self) -> None:
        """Ends your solo server and waits until it is gone. Jobs go on; the next client starts it again."""
        from gradient_jupyter.client.solo import Solo

        if isinstance(self._locator, Named):
            self._transport.request("POST", "/server/stop", type(None), repeatable=True)
        else:
            assert isinstance(self._locator, Solo)
            self._locator.stop()
        self.close()

    def close(self) -> None:
        """Lets go of the connections. The client may be used again."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"
