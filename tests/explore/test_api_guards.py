"""Wrong questions, pictures that are none, and strangers, over real HTTP: one line each, and nothing is done."""

import json
import zlib

import pytest

from hires.explore.guards import UPLOAD
from tests.explore.looking import picture_file

JSON = {"Content-Type": "application/json"}


def bomb(side) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""
    data = bytearray(picture_file("L", (8, 8)))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


NO_PICTURES = {
    "text": b"just words\n" * 50,
    "a script": b"#!/bin/sh\nid > owned\n",
    "a drawing that may hold scripts": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "a cut picture": picture_file()[:400],
    "a picture too small": picture_file(size=(2, 2)),
    "far too many pixels": bomb(60_000),
    "too many pixels": bomb(9_000),
    "a format that calls other programs": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
}


@pytest.mark.parametrize("data", NO_PICTURES.values(), ids=NO_PICTURES)
def test_no_picture_is_one_line(server, data):
    status, answer, _ = server.ask("POST", "/api/reconstruct", data, {"Content-Type": "image/png"})
    assert status == 415
    assert answer["error"].startswith("the picture: ") and "\n" not in answer["error"] and len(answer["error"]) < 300


def test_pixels_are_counted_before_they_are_unfolded(server):
    for side in (9_000, 60_000):
        _, answer, _ = server.ask("POST", "/api/reconstruct", bomb(side))
        assert "pixels; wanted " in answer["error"]


def test_an_upload_is_limited(server):
    status, answer, _ = server.ask("POST", "/api/reconstruct", bytes(UPLOAD + 1))
    assert (status, answer) == (413, {"error": "more than 10 MB; wanted a smaller picture"})
    status, answer, _ = server.ask("POST", "/api/reconstruct", b"")
    assert (status, answer) == (400, {"error": "an empty body; wanted the bytes of a picture"})


def points(*given) -> str:
    return json.dumps({"points": given})


WRONG = {  # path, body, words of the line
    "no JSON": ("/api/sample", "{seeds", "not JSON"),
    "nothing": ("/api/sample", "", "not JSON"),
    "no object": ("/api/sample", "[1]", "wanted a JSON object with seeds"),
    "nested without end": ("/api/sample", "[" * 100_000, "not JSON"),
    "bytes of no text": ("/api/sample", b"\xff\xfe{", "not JSON"),
    "no seeds": ("/api/sample", "{}", "with seeds"),
    "another key": ("/api/sample", '{"seeds": [1], "out": "/etc/passwd"}', "with seeds"),
    "an empty list": ("/api/sample", '{"seeds": []}', "1 to 64"),
    "too many": ("/api/sample", json.dumps({"seeds": list(range(65))}), "1 to 64"),
    "a seed below": ("/api/sample", '{"seeds": [-1]}', "found -1"),
    "a seed above": ("/api/sample", '{"seeds": [4294967296]}', "found 4294967296"),
    "a seed with a fraction": ("/api/sample", '{"seeds": [1.5]}', "found 1.5"),
    "a seed that is a word": ("/api/sample", '{"seeds": ["1"]}', "found '1'"),
    "a seed that is a switch": ("/api/sample", '{"seeds": [true]}', "found True"),
    "a number without end": ("/api/sample", '{"seeds": [%s]}' % ("9" * 5000), "not JSON"),
    "truncation NaN": ("/api/sample", '{"seeds": [1], "truncation": NaN}', "truncation: wanted numbers from 0 to 2, found nan"),
    "truncation infinite": ("/api/sample", '{"seeds": [1], "truncation": 1e999}', "found inf"),
    "truncation a word": ("/api/sample", '{"seeds": [1], "truncation": "0.5"}', "found '0.5'"),
    "truncation a switch": ("/api/sample", '{"seeds": [1], "truncation": true}', "found True"),
    "truncation null": ("/api/sample", '{"seeds": [1], "truncation": null}', "found None"),
    "no points": ("/api/decode", points(), "1 to 3"),
    "four points": ("/api/decode", points(*({"seed": i} for i in range(4))), "1 to 3"),
    "a point that is none": ("/api/decode", points(7), "found 7"),
    "a point that is two": ("/api/decode", points({"seed": 1, "code": [0.5] * 16}), "wanted {"),
    "a short code": ("/api/decode", points({"code": [1, 2]}), "wanted a list of 16 numbers"),
    "a code of words": ("/api/decode", points({"code": ["a"] * 16}), "code: wanted numbers"),
    "a code beyond": ("/api/decode", points({"code": [1e30] * 16}), "from -1000 to 1000"),
    "weights too few": ("/api/decode", '{"points": [{"seed":1},{"seed":2}], "weights": [1]}', "wanted 2 numbers"),
    "a weight below": ("/api/decode", '{"points": [{"seed":1}], "weights": [-1]}', "weights: wanted numbers from 0"),
    "weights all zero": ("/api/decode", '{"points": [{"seed":1},{"seed":2}], "weights": [0, 0]}', "all zero"),
    "a path that is not": ("/api/decode", '{"points": [{"seed":1}], "path": "/etc"}', "path=/etc: wanted sphere or line"),
}


@pytest.mark.parametrize(("path", "body", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_question_is_one_line(server, path, body, words):
    status, answer, _ = server.ask("POST", path, body if isinstance(body, bytes) else body.encode(), JSON)
    assert status == 400, answer
    assert words in answer["error"] and "\n" not in answer["error"] and len(answer["error"]) < 300


def test_another_sites_form_cannot_ask(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        status, answer, _ = server.ask("POST", "/api/sample", b'{"seeds": [1]}', {"Content-Type": kind})
        assert (status, "wanted application/json" in answer["error"]) == (415, True)


PATHS = ["/../config.py", "/%2e%2e/config.py", "/..%2f..%2fconfig.py", "//etc/passwd", "/style.css/../../model.py", "/page/main.js"]
PATHS += ["/model.py", "/server.py", "/index.html", "/style.css%00.png", "/..\\config.py", "/api", "/api/../../setup.py", "/static/"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_never_names_a_file(server, path):
    status, answer, _ = server.ask("GET", path)
    assert status == 404 and answer == {"error": "404: Not Found"}


def test_the_method_must_be_right(server):
    status, answer, headers = server.ask("GET", "/api/sample")
    assert (status, answer, headers["Allow"]) == (405, {"error": "405: Method Not Allowed"}, "POST")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", None])
@pytest.mark.parametrize("path", ["/", "/api/info"])
def test_a_strangers_name_is_refused(server, host, path):
    status, answer, _ = server.ask("GET", path, headers={"Host": host})
    assert status in (400, 403)
    assert status == 400 or "not a name of this machine" in answer["error"]


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_a_tunnels_port_is_right(server, host):
    assert server.ask("GET", "/api/info", headers={"Host": host})[0] == 200


def test_another_sites_page_is_refused(server):
    own = server.url.rstrip("/")
    good = json.dumps({"seeds": [1]}).encode()
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        status, answer, reply = server.ask("POST", "/api/sample", good, JSON | headers)
        assert (status, answer) == (403, {"error": "asked by another site's page; only this page may"})
        assert "Access-Control-Allow-Origin" not in reply
    assert server.ask("POST", "/api/sample", good, JSON | {"Origin": own, "Sec-Fetch-Site": "same-origin"})[0] == 200
    assert (
        server.ask("OPTIONS", "/api/sample", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})[0] == 403
    )
    assert server.ask("GET", "/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 200  # a link to it


@pytest.mark.parametrize("path", ["/", "/main.js", "/style.css", "/api/info", "/nothing"])
def test_every_answer_binds_the_browser(server, path):
    _, body, headers = server.ask("GET", path)
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert path != "/" or (b"http://" not in body.replace(b"http://www.w3.org", b"") and b"https://" not in body)
