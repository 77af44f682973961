"""Somebody who follows something that goes on for long."""

from __future__ import annotations

import threading

from people import People


class Reader:
    """Reads an answer to its end in a thread; says when its first bytes came, and when it was over."""

    def __init__(self, people: People, who: str, path: str, headers: dict[str, str] | None = None) -> None:
        self.began, self.over = threading.Event(), threading.Event()
        self.content = b""
        self._answer = people.http.request(
            "GET", people.runtime.url + path, preload_content=False,
            headers={"Authorization": f"Bearer {people.tokens[who]}", **(headers or {})},
        )  # fmt: skip
        assert self._answer.status == 200, self._answer.status
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for chunk in self._answer.stream(65536):
                self.content += chunk
                self.began.set()
        except Exception:
            pass  # cut in the middle is what is waited for
        self.over.set()
