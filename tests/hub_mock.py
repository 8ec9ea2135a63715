"""A Hugging Face Hub on 127.0.0.1: as much of its HTTP as making, uploading and fetching models take."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "hf_mine"
MODEL = "([^/]+/[^/]+)"


class Hub:
    """Repositories of models in memory.

    Attributes:
        models: {name: {"private": bool, "branches": {branch: commit}, "commits": {commit: {path: bytes}}}}.
        asked: the requests, "METHOD path".
        url: its address, for HF_ENDPOINT.
    """

    def __init__(self):
        self.models, self.blobs, self.asked = {}, {}, []
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def create(self, name, private=False):
        self.models[name] = {"private": private, "branches": {}, "commits": {}}
        self.commit(name, "main", {".gitattributes": b"*.safetensors filter=lfs"})

    def commit(self, name, branch, files):
        """Adds files to those of a branch; the commit."""
        model = self.models[name]
        files = model["commits"].get(model["branches"].get(branch), {}) | files
        said = "".join(f"{path} {hashlib.sha1(data).hexdigest()}\n" for path, data in sorted(files.items()))
        commit = hashlib.sha1(said.encode()).hexdigest()
        model["commits"][commit], model["branches"][branch] = files, commit
        return commit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, data=b"", **headers):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        out = b""
        while size := int(self.rfile.readline(), 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def handle_all(self):
        path, body = unquote(self.path.split("?")[0]), self.body()
        self.hub.asked.append(f"{self.command} {path}")
        for pattern, act in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                return act(self, body, *found.groups())
        self.hub.asked[-1] += " is not known"
        return self.answer(404, {"error": "the mock does not know this"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_all

    @property
    def logged_in(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def model(self, name):
        """A model that whoever asks may see."""
        model = self.hub.models.get(name)
        if model and (self.logged_in or not model["private"]):
            return model
        return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def create(self, body):
        said = json.loads(body)
        name = f"{said['organization']}/{said['name']}"
        if not self.logged_in:
            return self.answer(401, {"error": "Invalid username or password."})
        if said["organization"] != "me":
            return self.answer(403, {"error": f"no rights in {said['organization']}"})
        if name in self.hub.models:
            return self.answer(409, {"error": "it is there already", "url": f"{self.hub.url}/{name}"})
        private = said.get("private") or said.get("visibility") == "private"  # as older and newer clients ask
        self.hub.create(name, private)
        return self.answer(200, {"url": f"{self.hub.url}/{name}"})

    def validate(self, body):
        wrong = "license: none" in json.loads(body)["content"]
        self.answer(400 if wrong else 200, {"errors": [{"message": "no such license"}] * wrong})

    def branch(self, body, name, branch):
        branches = self.hub.models[name]["branches"]
        code = 409 if branch in branches else 200
        branches.setdefault(branch, branches["main"])
        self.answer(code, {})

    def info(self, body, name):
        if model := self.model(name):
            self.answer(200, {"id": name, "private": model["private"], "tags": [], "siblings": []})

    def preupload(self, body, name):
        lfs = lambda path: "lfs" if path.endswith(".safetensors") else "regular"
        files = [f | {"uploadMode": lfs(f["path"]), "shouldIgnore": False} for f in json.loads(body)["files"]]
        self.answer(200, {"files": files})

    def lfs_batch(self, body, name):
        there = lambda o: {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
        objects = [o | there(o) for o in json.loads(body)["objects"]]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, body, oid):
        self.hub.blobs[oid] = body
        self.answer(200)

    def commit(self, body, name, branch):
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = self.hub.commit(name, branch, files)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def file(self, body, name, rest):
        if not (model := self.model(name)):
            return None
        places = model["branches"] | {c: c for c in model["commits"]}
        revision = next((r for r in places if rest.startswith(f"{r}/")), None)
        if revision is None:
            return self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        commit, path = places[revision], rest.removeprefix(f"{revision}/")
        if (data := model["commits"][commit].get(path)) is None:
            return self.answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.answer(200, data, ETag=etag, X_Repo_Commit=commit)


ROUTES = {
    "/api/repos/create": Handler.create,
    "/api/validate-yaml": Handler.validate,
    rf"/api/models/{MODEL}/branch/(.+)": Handler.branch,
    rf"/api/models/{MODEL}/preupload/.+": Handler.preupload,
    rf"/api/models/{MODEL}/commit/(.+)": Handler.commit,
    rf"/api/models/{MODEL}(?:/revision/[^/]+)?": Handler.info,
    rf"/{MODEL}\.git/info/lfs/objects/batch": Handler.lfs_batch,
    r"/lfs/(\w+)": Handler.put,
    rf"/{MODEL}/resolve/(.+)": Handler.file,
}
