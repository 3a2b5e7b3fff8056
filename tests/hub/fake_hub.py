"""A server that behaves like the hub: API, resolve with redirects to a second host that keeps the large files, ETags,
ranges, gates; and that misbehaves on request. Standard library only.

The hub is http://127.0.0.1:PORT, the store of large files http://localhost:OTHER_PORT: another origin.
"""
import hashlib
import http.server
import json
import socket
import ssl
import threading
import time
import urllib.parse

LARGE = 4096  # bytes; files from this size on are kept in the store, as with LFS


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag_of(content):
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else git_sha1(content)


class Repo:
    def __init__(self):
        self.commits = {}  # sha -> {name: bytes}
        self.refs = {}  # branch or tag -> sha
        self.gated = False
        self.private = False

    def commit(self, files, *refs):
        text = json.dumps(sorted((n, etag_of(c)) for n, c in files.items()))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = dict(files)
        for ref in refs:
            self.refs[ref] = sha
        return sha


class FakeHub:
    """Use as a context manager. `faults` are asked before a file's bytes are sent."""

    def __init__(self):
        self.repos = {}  # models by "ORG/NAME", kernels by "kernels/ORG/NAME"
        self.trusted = {"org"}  # publishers of kernels
        self.page = 1000  # entries of a tree on one page
        self.tokens = {"hf_good"}
        self.log = []  # (host, method, path, headers)
        self.raw_listing = None  # bytes instead of every listing
        self.head_override = {}  # header -> value, on resolve
        self.status_queue = []  # (status, headers) that the next API and resolve requests get
        self.store_fault = None  # function(handler, content, begin, end) -> True when it has answered
        self.bytes_sent = 0
        self.rate = None  # bytes a second and connection of the store
        self.lock = threading.Lock()
        hub = self

        class Hub(Handler):
            owner, host_name = hub, "hub"

        class Store(Handler):
            owner, host_name = hub, "store"

        self.servers = [Server(("127.0.0.1", 0), Hub), Server(("127.0.0.1", 0), Store)]
        self.endpoint = "http://127.0.0.1:%d" % self.servers[0].server_address[1]
        self.store = "http://localhost:%d" % self.servers[1].server_address[1]

    def use_tls(self, certificate):
        """Both hosts speak https with this file of key and certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        for server in self.servers:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.endpoint, self.store = (url.replace("http:", "https:") for url in (self.endpoint, self.store))

    def __enter__(self):
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def repo(self, name):
        return self.repos.setdefault(name, Repo())

    def requests(self, host, method=None):
        with self.lock:
            return [r for r in self.log if r[0] == host and method in (None, r[1])]

    def forget(self):
        with self.lock:
            self.log.clear()
            self.bytes_sent = 0


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # clients go away in these tests


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.route()

    def do_HEAD(self):
        self.route()

    def route(self):
        hub = self.owner
        path = self.path
        if path.startswith("http://"):  # asked as a proxy
            path = "/" + path.split("/", 3)[3]
        with hub.lock:
            hub.log.append((self.host_name, self.command, self.path, dict(self.headers)))
            queued = hub.status_queue.pop(0) if hub.status_queue and self.host_name == "hub" else None
        if queued:
            return self.answer(queued[0], dict(queued[1]))
        parts = urllib.parse.urlsplit(path)
        names = [urllib.parse.unquote(p) for p in parts.path.strip("/").split("/")]
        if self.host_name == "store":
            return self.serve_store(names)
        if names[:2] == ["api", "models"]:
            return self.serve_api(names[2:])
        if names[:2] == ["api", "kernels"]:
            return self.serve_kernel_api(names[2:], urllib.parse.parse_qs(parts.query))
        if names[:2] == ["api", "organizations"] and names[3:] == ["overview"]:
            if not any(name.split("/")[-2] == names[2] for name in hub.repos):
                return self.answer(404, {})
            return self.answer_json({"name": names[2], "fullname": names[2], "avatarUrl": "",
                                     "trustedKernelPublisher": names[2] in hub.trusted})
        if len(names) >= 6 and names[0] == "kernels" and names[3] == "resolve":
            return self.serve_resolve("/".join(names[:3]), names[4], "/".join(names[5:]))
        if len(names) >= 5 and names[2] == "resolve":
            return self.serve_resolve("/".join(names[:2]), names[3], "/".join(names[4:]))
        self.answer(404, {"X-Error-Code": "RepoNotFound"})

    def allowed(self, name):
        """The repository, or None after saying no."""
        hub = self.owner
        repo = hub.repos.get(name)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            return self.answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if repo is None or (repo.private and not token):
            return self.answer(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        return repo

    def revision(self, repo, revision):
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        return sha

    def serve_api(self, names):
        hub = self.owner
        name, kind, revision = "/".join(names[:2]), names[2], "/".join(names[3:])
        repo = self.allowed(name)
        if repo is None or (sha := self.revision(repo, revision)) is None:
            return None
        if hub.raw_listing is not None:
            return self.answer(200, {"Content-Type": "application/json"}, hub.raw_listing)
        files = repo.commits[sha]
        if kind == "tree":
            out = []
            for file, content in files.items():
                entry = {"type": "file", "path": file, "size": len(content), "oid": git_sha1(content)}
                if len(content) >= LARGE:
                    entry["lfs"] = {"oid": etag_of(content), "size": len(content), "pointerSize": 130}
                out.append(entry)
        else:
            out = {"id": name, "modelId": name, "sha": sha, "siblings": []}
            for file, content in files.items():
                entry = {"rfilename": file, "size": len(content), "blobId": git_sha1(content)}
                if len(content) >= LARGE:
                    entry["lfs"] = {"sha256": etag_of(content), "size": len(content), "pointerSize": 130}
                out["siblings"].append(entry)
        return self.answer(200, {"Content-Type": "application/json"}, json.dumps(out).encode())

    def serve_kernel_api(self, names, query):
        """A kernel's refs, commit, or one page of its files."""
        hub = self.owner
        repo = self.allowed("kernels/" + "/".join(names[:2]))
        if repo is None:
            return None
        kind, rest = names[2], names[3:]
        if kind == "refs":
            branches = [{"name": n, "ref": "refs/heads/" + n, "targetCommit": c} for n, c in repo.refs.items()]
            return self.answer_json({"branches": branches, "tags": [], "converts": []})
        sha = self.revision(repo, rest[0] if kind == "tree" else "/".join(rest))
        if sha is None:
            return None
        if kind == "revision":
            return self.answer_json({"id": "/".join(names[:2]), "sha": sha, "private": False, "gated": False})
        if hub.raw_listing is not None:
            return self.answer(200, {"Content-Type": "application/json"}, hub.raw_listing)
        folder = "/".join(rest[1:])
        entries, folders = [], set()
        for file, content in sorted(repo.commits[sha].items()):
            if folder and not file.startswith(folder + "/"):
                continue
            below = file[len(folder) + 1 if folder else 0:]
            if "/" in below:
                folders.add((folder + "/" if folder else "") + below.split("/")[0])
                if query.get("recursive", ["false"])[0].lower() != "true":
                    continue
            entry = {"type": "file", "path": file, "size": len(content), "oid": git_sha1(content)}
            if len(content) >= LARGE:
                entry["lfs"] = {"oid": etag_of(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        entries += [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)]
        begin = int(query.get("cursor", ["0"])[0])
        headers = {}
        if begin + hub.page < len(entries):
            query["cursor"] = [str(begin + hub.page)]
            path = self.path.split("?")[0] + "?" + urllib.parse.urlencode(query, doseq=True)
            headers["Link"] = '<%s%s>; rel="next"' % (hub.endpoint, path)
        return self.answer_json(entries[begin:begin + hub.page], headers)

    def answer_json(self, value, headers=()):
        return self.answer(200, {"Content-Type": "application/json", **dict(headers)}, json.dumps(value).encode())

    def serve_resolve(self, name, revision, file):
        hub = self.owner
        repo = self.allowed(name)
        if repo is None or (sha := self.revision(repo, revision)) is None:
            return None
        if repo.gated and (self.headers.get("Authorization") != "Bearer hf_member"):
            status = 403 if self.headers.get("Authorization") else 401
            return self.answer(status, {"X-Error-Code": "GatedRepo", "X-Repo-Commit": sha})
        if file not in repo.commits[sha]:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        content = repo.commits[sha][file]
        headers = {"X-Repo-Commit": sha, "ETag": '"%s"' % etag_of(content)}
        if len(content) < LARGE:
            headers.update({k: v for k, v in hub.head_override.items() if not k.startswith(("X-Linked", "Location"))})
            return self.answer(200, headers, content)
        headers.update({"X-Linked-ETag": '"%s"' % etag_of(content), "X-Linked-Size": str(len(content)),
                        "Location": "%s/%s/%s/%s?signature=%d" % (hub.store, name, sha, urllib.parse.quote(file), len(hub.log))})
        headers.update(hub.head_override)
        return self.answer(302, headers, b"moved")

    def serve_store(self, names):
        hub = self.owner
        at = 3 if names[0] == "kernels" else 2
        content = hub.repos["/".join(names[:at])].commits[names[at]]["/".join(names[at + 1:])]
        begin, end = 0, len(content)
        wanted = self.headers.get("Range")
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end = int(first), min(int(last) + 1 if last else end, end)
        if hub.store_fault and hub.store_fault(self, content, begin, end):
            return
        if begin >= len(content):
            return self.answer(416, {"Content-Range": "bytes */%d" % len(content)})
        self.send_content(content, begin, end, 206 if wanted else 200)

    def send_content(self, content, begin, end, status, claimed=None, stop_at=None):
        """`claimed`: the total the answer speaks of. `stop_at`: the connection dies after so many bytes."""
        hub = self.owner
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (begin, end - 1, claimed or len(content)))
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", '"of-the-store"')
        self.end_headers()
        if self.command == "HEAD":
            return
        last = end if stop_at is None else min(end, begin + stop_at)
        step = 65536 if hub.rate is None else max(1, min(65536, hub.rate // 20))
        for at in range(begin, last, step):
            piece = content[at:min(at + step, last)]
            self.wfile.write(piece)
            with hub.lock:
                hub.bytes_sent += len(piece)
            if hub.rate:
                time.sleep(len(piece) / hub.rate)
        if stop_at is not None and begin + stop_at < end:
            self.die()

    def die(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return None
