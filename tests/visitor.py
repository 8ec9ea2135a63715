"""A visitor of the studio who speaks HTTP, as its page does."""

import json
import secrets

import httpx


class Visitor:
    """Presses buttons by what the page's own configuration says.

    Args:
        url: of the studio.
    """

    def __init__(self, url):
        self.http = httpx.Client(base_url=url.rstrip("/"), timeout=120, trust_env=False)
        self.config = self.http.get("/config").json()
        self.parts = {c["id"]: c for c in self.config["components"]}
        self.session = secrets.token_hex(6)

    def upload(self, name, content):
        """The path that the studio gives to an upload."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        answer.raise_for_status()
        return answer.json()[0]

    def press(self, button, changes):
        """Presses the button of this elem_id; `changes` are {label: value} of controls."""
        (event,) = (
            d for d in self.config["dependencies"]
            for part, what in d["targets"]
            if what == "click" and d["backend_fn"] and self.parts[part]["props"].get("elem_id") == button
        )  # fmt: skip
        data = []
        for part in event["inputs"]:
            props = self.parts[part]["props"]
            data.append(changes.get(props.get("label"), props.get("value")))
        asked = {"data": data, "fn_index": event["id"], "session_hash": self.session}
        return self.http.post("/gradio_api/queue/join", json=asked)

    def answers(self):
        """What the studio sends until it is done, a mapping each."""
        with self.http.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.session}
        ) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield (said := json.loads(line[5:]))
                    if said["msg"] in ("process_completed", "close_stream", "unexpected_error"):
                        return


def gallery(*paths):
    """Pictures as the page sends them."""
    meta = {"_type": "gradio.FileData"}
    return [{"image": {"path": str(p), "meta": meta}, "caption": None} for p in paths]
