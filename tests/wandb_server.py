"""A stand-in for the W&B server on this machine: it answers what an upload asks, and keeps what it is sent."""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = "someone"


class WandbServer:
    """`runs`: W&B id -> what was sent of it. `artifacts`: id -> name, digest, state. `used`: (run, artifact name)."""

    def __init__(self):
        self.runs, self.artifacts, self.used, self.views, self.stored = {}, {}, [], {}, {}
        self.asked = []
        self.lock = threading.Lock()
        self.http = _Quiet(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def run(self, name):
        blank = {"history": {}, "summary": {}, "exit_code": None, "config": {}, "starts": 0}
        return self.runs.setdefault(name, blank)

    def answer(self, query, variables):
        """The data of one GraphQL operation."""
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = operation.group(1) if operation else ""
        self.asked.append(name)
        with self.lock:
            return getattr(self, f"_{name}", lambda _: {})(variables)

    def _Viewer(self, _):  # noqa: N802
        person = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "admin": False}
        return {"viewer": person | {"teams": {"edges": []}}}

    _GetDefaultEntity = _Viewer

    def _RunResumeStatus(self, asked):  # noqa: N802
        there = self.runs.get(asked["name"])
        bucket = None
        if there:
            history = there["history"]
            bucket = {
                "id": asked["name"],
                "name": asked["name"],
                "summaryMetrics": json.dumps(there["summary"]),
                "displayName": there["display_name"],
                "logLineCount": 0,
                "historyLineCount": len(history),
                "eventsLineCount": 0,
                "historyTail": json.dumps([history[max(history)]] if history else []),
                "eventsTail": "[]",
                "config": json.dumps(there["config"]),
                "tags": [],
                "notes": "",
                "wandbConfig": "{}",
            }
        entity = {"id": "1", "name": ENTITY}
        return {"model": {"id": "1", "name": asked["project"], "entity": entity, "bucket": bucket}}

    def _UpsertBucket(self, sent):  # noqa: N802
        run = self.run(sent["name"])
        inserted = "project" not in run
        run["config"] |= {key: item["value"] for key, item in json.loads(sent.get("config") or "{}").items()}
        names = {"project": "project", "groupName": "group", "jobType": "job_type", "displayName": "display_name"}
        for theirs, ours in (names | {"tags": "tags", "sweep": "sweep"}).items():
            if sent.get(theirs) or ours not in run:
                run[ours] = sent.get(theirs)
        project = {"id": "1", "name": run["project"], "entity": {"id": "1", "name": ENTITY}}
        bucket = {"id": sent["name"], "name": sent["name"], "displayName": run["display_name"], "config": "{}"}
        bucket |= {"project": project, "sweepName": run["sweep"], "historyLineCount": len(run["history"])}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _ArtifactType(self, _):  # noqa: N802
        return {"project": None}

    def _CreateRunFiles(self, asked):  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/store/{asked['run']}/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, asked):  # noqa: N802
        sent = asked["input"]
        name, digest = sent["artifactCollectionName"], sent["digest"]
        same = [key for key, a in self.artifacts.items() if (a["name"], a["digest"]) == (name, digest)]
        key = same[0] if same else f"artifact{len(self.artifacts)}"
        artifact = self.artifacts.setdefault(key, {"name": name, "digest": digest, "state": "PENDING", "run": None})
        artifact["run"] = artifact["run"] or sent["runName"]
        found = {"id": key, "state": artifact["state"], "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": found}}

    def _CreateArtifactManifest(self, asked):  # noqa: N802
        url = f"{self.url}/store/{asked['artifactID']}/{asked['name']}"
        file = {"id": "1", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": asked["artifactID"], "file": file}}}

    _UpdateArtifactManifest = _CreateArtifactManifest

    def _CreateArtifactFiles(self, asked):  # noqa: N802
        nodes = []
        for file in asked["input"]["artifactFiles"]:
            place = f"{file['artifactID']}/{file['name']}"
            url = {"storagePath": place, "uploadUrl": f"{self.url}/store/{place}", "uploadHeaders": []}
            nodes.append({"node": url | {"uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, asked):  # noqa: N802
        artifact = self.artifacts[asked["artifactID"]]
        artifact["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": artifact["digest"]}}}

    def _UseArtifact(self, asked):  # noqa: N802
        sent = asked["input"]
        self.used.append((sent["runName"], self.artifacts[sent["artifactID"]]["name"]))
        return {"useArtifact": {"artifact": {"id": sent["artifactID"]}}}

    def _UpsertView2(self, sent):  # noqa: N802
        number = sent.get("id") or f"view{len(self.views)}"
        self.views[number] = sent
        return {"upsertView": {"view": {"id": number, "name": sent["name"]}, "inserted": True}}

    def _View(self, asked):  # noqa: N802
        found = [(key, view) for key, view in self.views.items() if view["name"] == asked["viewName"]]
        nodes = [{"id": key, "displayName": view["displayName"], "spec": view["spec"]} for key, view in found]
        return {"project": {"allViews": {"edges": [{"node": node} for node in nodes]}}}

    def stream(self, name, sent):
        """Lines of a run: rows by their place in the file, so that what is sent again replaces itself."""
        with self.lock:
            run = self.run(name)
            for file, part in (sent.get("files") or {}).items():
                lines = [json.loads(line) for line in part["content"]] if file.endswith((".jsonl", ".json")) else []
                if file == "wandb-history.jsonl":
                    run["history"] |= dict(enumerate(lines, start=part["offset"]))
                    run["starts"] += part["offset"] == 0
                elif file == "wandb-summary.json":
                    run["summary"] = lines[-1]
            if sent.get("complete"):
                run["exit_code"] = sent["exitcode"]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that goes away leaves its connections behind."""


def _handler(server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def body(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def reply(self, content):
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_POST(self):
            body = self.body()
            if self.path.startswith("/graphql"):
                sent = json.loads(body)
                self.reply({"data": server.answer(sent["query"], sent.get("variables") or {})})
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
                self.reply({})
            else:
                self.reply({})

        def do_PUT(self):
            server.stored[self.path] = self.body()
            self.reply({})

        def do_GET(self):
            self.reply({})

        def log_message(self, *_):
            pass

    return Handler
