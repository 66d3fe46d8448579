"""The REST client against a real server with a real server's faults. What takes for ever ends here, or the test hangs."""

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import math
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.http_server import Answer, Asked, HttpServer, Window
from tests.servers import free_port, until
from usersync_cli import log
from usersync_cli.clients.http import rate_limit, transport
from usersync_cli.clients.http.client import Client, Forbidden, Missing, RateLimit, Refused, Request, Unknown
from usersync_cli.errors import ConfigError, Drift, LoginRequired, Stopped, Unavailable, UsersyncError, status_of
from usersync_cli.patience import Patience
from usersync_cli.signals import Stop

HTML = Answer(body=b"<html><body>Bad gateway</body></html>", headers={"Content-Type": "text/html"})
CHUNKED = {"Transfer-Encoding": "chunked"}
GZIP = {"Content-Encoding": "gzip"}
OK = Answer(body={"data": [{"id": "1"}]})


@dataclass(frozen=True)
class Access:
    token: str
    generation: int
    until: float = math.inf


@dataclass
class Tokens:
    """Gives a token of each generation; `after` is what it was asked for."""

    after: list[int] = field(default_factory=list)
    most: int = 100  # generations

    def __call__(self, after: int) -> Access:
        self.after.append(after)
        if after >= self.most:
            raise LoginRequired("no more")
        return Access(f"token-{after + 1}", after + 1)


@pytest.fixture(autouse=True)
def everything_is_logged() -> None:
    """Whatever an earlier test of this process made of the log."""
    log.configure(verbosity=1)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer().running() as server:
        yield server


@pytest.fixture
def stop() -> Stop:
    return Stop()


Make = Callable[..., Client]


@pytest.fixture
def make(server: HttpServer, stop: Stop) -> Iterator[Make]:
    """A client of the server, with little patience; afterwards no thread of it is left."""
    before = set(threads())  # of other tests, whose end was a signal
    with contextlib.ExitStack() as stack:

        def client(url: str = "", **options: Any) -> Client:
            given = {"deadline": timedelta(seconds=20), "timeout": timedelta(seconds=5), "pause": timedelta(seconds=0.01), **options}
            return stack.enter_context(Client(url or server.url, name="the vendor", stop=stop, **given))

        yield client
    until(lambda: not set(threads()) - before)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rest"]


def signal_later(stop: Stop, when: Callable[[], Any]) -> threading.Thread:
    """What the handler of SIGTERM does, as soon as `when` is true."""
    thread = threading.Thread(target=lambda: (until(when), stop._note(signal.SIGTERM, None)))
    thread.start()
    return thread


def requests(number: int, path: str = "/x") -> Iterator[Request]:
    return (Request("POST", path, {"number": each}) for each in range(number))


# What is sent, and what comes back


def test_a_call_is_json_with_a_token(server: HttpServer, make: Make) -> None:
    """
    A POST carries JSON and the bearer token; the reply has the body's own bytes and the server's date.
    """
    server.skew = timedelta(minutes=-7)
    server.on("/contacts.list", Answer(body=b'{"data": [{"amount": 1.10}]}'))

    reply = make(access=Tokens(), headers={"X-Api-Version": "2023-09-26"}).post("/contacts.list", {"page": {"number": 1}})

    (asked,) = server.asked
    wanted = {"Authorization": "Bearer token-1", "Content-Type": "application/json", "X-Api-Version": "2023-09-26"}
    assert wanted == {name: asked.headers[name] for name in wanted}
    assert {"page": {"number": 1}} == asked.json
    assert b'{"data": [{"amount": 1.10}]}' == reply.body
    assert reply.date is not None
    assert timedelta(seconds=-2) < reply.date - server.now() <= timedelta()


def test_a_get_has_its_values_escaped(server: HttpServer, make: Make) -> None:
    """
    Values of a query arrive as they were given, a + too.
    """
    server.on("/contacts.list", OK)

    make(auth=("id", "secret")).get("/contacts.list", {"filter[updated_since]": "2016-02-04T16:44:33+00:00"})

    assert {"filter[updated_since]": ["2016-02-04T16:44:33+00:00"]} == server.asked[0].query
    assert "Basic aWQ6c2VjcmV0" == server.asked[0].headers["Authorization"]


def test_a_request_has_its_own_form(server: HttpServer, make: Make) -> None:
    """
    A form instead of JSON, headers of its own, a list as JSON; a status that is accepted comes with its body, also 500.
    """
    server.on("/x", OK, Answer(500, {"errorMessage": "no mail server"}))
    client = make()

    client.send(Request("POST", "/x", form={"grant_type": "client_credentials"}, headers={"Authorization": "Bearer own"}))
    reply = client.send(Request("POST", "/x", ["UPDATE_PASSWORD"], repeat=False, accept=(500,)))

    assert (b"grant_type=client_credentials", "Bearer own") == (server.asked[0].body, server.asked[0].headers["Authorization"])
    assert "application/x-www-form-urlencoded" == server.asked[0].headers["Content-Type"]
    assert (["UPDATE_PASSWORD"], 500, {"errorMessage": "no mail server"}) == (server.asked[1].json, reply.status, reply.json())


def test_connections_are_kept_alive(server: HttpServer, make: Make) -> None:
    """
    One call after the other goes over one connection; a refusal in between changes nothing.
    """
    server.on("/x", OK)
    client = make()
    for path in ("/x", "/x", "/missing", "/x"):
        with contextlib.suppress(Missing):
            client.post(path, {})

    assert [1, 1, 1, 1] == [asked.connection for asked in server.asked]


def test_bodies_come_in_several_forms(server: HttpServer, make: Make) -> None:
    """
    In chunks, compressed, or both: the body is the same, and the connection kept.
    """
    body = b'{"data": [%s]}' % b",".join([b'"Test User One"'] * 10_000)
    packed = gzip.compress(body)
    server.on("/x", Answer(body=body, headers=CHUNKED), Answer(body=packed, headers=GZIP), Answer(body=packed, headers={**GZIP, **CHUNKED}))
    client = make()

    assert [body] * 3 == [client.post("/x", {}).body for _ in range(3)]
    assert [1, 1, 1] == [asked.connection for asked in server.asked]


def test_a_connection_that_was_closed_meanwhile(server: HttpServer, make: Make) -> None:
    """
    A server may close a connection after its reply without saying so: the next call takes another one.
    """
    server.on("/x", Answer(fault="closed after"), OK)
    client = make()

    assert [200, 200] == [client.post("/x", {}, repeat=False).status, client.post("/x", {}).status]


def test_the_environment_is_not_asked(server: HttpServer, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    Neither ~/.netrc nor a proxy of the environment changes where a token goes.
    """
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    server.on("/x", OK)

    make(access=Tokens()).post("/x", {})

    assert "Bearer token-1" == server.asked[0].headers["Authorization"]


def test_an_answer_may_have_no_body(server: HttpServer, make: Make) -> None:
    """
    204 has no body, and 201 and 202 need none.
    """
    server.on("/x", Answer(204, b""), Answer(201, b""), Answer(202, b""))
    client = make()

    assert [None, None, None] == [client.post("/x", {}).json() for _ in range(3)]


def test_a_half_surrogate_is_json(server: HttpServer, make: Make) -> None:
    """
    What PostgreSQL refuses in one record is no reason to refuse its page.
    """
    server.on("/x", Answer(body=b'{"data": ["\\ud800 and the rest", "\\u0000"]}'))

    assert {"data": ["\ud800 and the rest", "\0"]} == make().post("/x", {}).json()


def test_another_shape_is_drift(server: HttpServer, make: Make) -> None:
    """
    A body of another shape than the source knows is drift; the message says where, not what.
    """
    server.on("/x", Answer(body={"data": "Test User One"}))

    with pytest.raises(Drift, match=r"Expected `array`, got `str` - at `\$\[...\]`") as caught:
        make().post("/x", {}).decode(dict[str, list[str]])

    assert "Test User" not in str(caught.value)


# What is repeated, and what is not


@pytest.mark.parametrize(
    "fault",
    [
        *(pytest.param(Answer(status), id=str(status)) for status in (429, 500, 502, 503, 504)),
        pytest.param(HTML, id="html"),
        pytest.param(Answer(body=b'{"data": [{"id": '), id="half JSON"),
        pytest.param(Answer(body=b""), id="empty"),
        pytest.param(Answer(body=b'{"data": NaN}'), id="NaN"),
        pytest.param(Answer(fault="truncated"), id="truncated"),
        pytest.param(Answer(404, {"errors": []}, fault="truncated"), id="404 truncated"),
        pytest.param(Answer(fault="reset"), id="reset"),
        pytest.param(Answer(fault="close"), id="closed"),
        pytest.param(Answer(headers=CHUNKED, fault="truncated"), id="chunks truncated"),
        pytest.param(Answer(headers=GZIP), id="not gzip"),
        pytest.param(Answer(body=gzip.compress(b'{"data": []}')[:18], headers=GZIP), id="gzip truncated"),
    ],
)
def test_what_may_pass_is_repeated(server: HttpServer, make: Make, fault: Answer) -> None:
    """
    After a fault that may pass the same request goes out again, and its answer is the answer.
    """
    server.on("/x", fault, OK)

    assert {"data": [{"id": "1"}]} == make().post("/x", {"number": 1}).json()
    assert [{"number": 1}, {"number": 1}] == [asked.json for asked in server.asked]


@pytest.mark.parametrize("fault", ["hang", "hang in body"])
def test_a_silent_server_is_asked_again(server: HttpServer, make: Make, fault: Any) -> None:
    """
    A read has a time-out, before the reply begins and in the middle of it.
    """
    server.on("/x", Answer(fault=fault), OK)

    assert {"data": [{"id": "1"}]} == make(timeout=timedelta(seconds=0.2)).post("/x", {}).json()


@pytest.mark.parametrize("fault", ["hang", "hang in body", "dribble", "dribble headers"])
def test_a_call_has_a_deadline(server: HttpServer, make: Make, fault: Any) -> None:
    """
    A server that hangs or sends a byte now and then keeps nobody past the deadline, and its connection is closed.
    """
    server.on("/x", Answer(fault=fault))

    with pytest.raises(Unavailable, match=r"POST /x; tried 1 time in"):
        make(deadline=timedelta(seconds=0.5), timeout=timedelta(seconds=30)).post("/x", {})

    until(lambda: server.left == 1)


def test_repetitions_end_with_the_deadline(server: HttpServer, make: Make) -> None:
    """
    What does not pass before the deadline is status 4: the next run may have more luck.
    """
    server.on("/x", Answer(503, headers={"X-Request-ID": "abc-123"}))

    with pytest.raises(Unavailable) as caught:
        make(deadline=timedelta(seconds=0.3)).post("/x", {})

    tried = server.count("/x")
    assert tried > 1
    assert f"the vendor answered 503 (request id abc-123) (POST /x; tried {tried} times in 0 seconds)" == caught.value.message


def test_a_server_that_is_not_there(make: Make) -> None:
    """
    A refused connection is repeated until the deadline, and then named by host and port.
    """
    port = free_port()

    with pytest.raises(Unavailable, match=f"can't be reached at 127.0.0.1:{port} .*tried [2-9] times"):
        make(f"http://127.0.0.1:{port}", deadline=timedelta(seconds=0.3)).post("/x", {})


@pytest.mark.parametrize("fault", [Answer(500), Answer(503), HTML, Answer(fault="reset")], ids=["500", "503", "html", "reset"])
def test_what_may_not_be_repeated_is_sent_once(server: HttpServer, make: Make, fault: Answer) -> None:
    """
    A request that may not be repeated arrives once, and the error says that it may have been done.
    """
    server.on("/create", fault, OK)

    with pytest.raises(Unknown) as caught:
        make().post("/create", {}, repeat=False)

    assert "it may have been done all the same: look first" == caught.value.hint
    assert 1 == server.count("/create")


def test_what_never_left_was_not_done(make: Make) -> None:
    """
    Where nobody can be reached a request that may not be repeated was not sent: that is Unavailable, and not Unknown.
    """
    with pytest.raises(Unavailable, match="can't be reached") as caught:
        make(f"http://127.0.0.1:{free_port()}", deadline=timedelta(seconds=0.3)).post("/create", {}, repeat=False)

    assert not isinstance(caught.value, Unknown)


def test_a_refusal_for_the_rate_is_repeated_all_the_same(server: HttpServer, make: Make) -> None:
    """
    After 429 nothing was done: such a request is repeated even where others may not be.
    """
    server.on("/create", Answer(429), OK)

    assert 200 == make().post("/create", {}, repeat=False).status


@pytest.mark.parametrize(
    ("status", "kind", "exit_status"),
    [(400, Refused, 7), (403, Forbidden, 2), (404, Missing, 7), (409, Refused, 7), (422, Refused, 7), (401, Forbidden, 2)],
)
def test_a_refusal_is_raised_at_once(server: HttpServer, make: Make, status: int, kind: type[Refused], exit_status: int) -> None:
    """
    What repeating does not change is raised after one request, with status, path and the request's id; not with the vendor's words.
    """
    server.on("/x", Answer(status, {"errors": [{"title": "Test User One is not welcome"}]}, {"X-Request-ID": "abc-123"}))

    with pytest.raises(kind) as caught:
        make().post("/x", {})

    error = caught.value
    assert (f"the vendor answered {status} (request id abc-123) to POST /x", status) == (error.message, error.http_status)
    assert ("Test User One is not welcome", exit_status) == (error.title, status_of(error))
    assert 1 == server.count("/x")


@pytest.mark.parametrize("status", [408, 501, 520])
def test_other_troubles_of_a_server_are_temporary(server: HttpServer, make: Make, status: int) -> None:
    """
    A status that speaks of the server but promises nothing from a repetition is left to the next run.
    """
    server.on("/x", Answer(status))

    with pytest.raises(Unavailable, match=f"answered {status} to POST /x"):
        make().post("/x", {})

    assert 1 == server.count("/x")


def test_a_refusal_may_be_an_answer(server: HttpServer, make: Make) -> None:
    """
    Where 404 says that a record is gone it comes as a reply; the 404 page of something in between does not.
    """
    server.on("/x", Answer(404, {"errors": [{"title": "Not found"}]}), Answer(404, HTML.body, HTML.headers))
    request, client = Request("POST", "/x", {}, accept=(404,)), make()

    assert 404 == client.send(request).status
    with pytest.raises(Missing):
        client.send(request)


# Where it goes, and how much comes back


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error(server: HttpServer, make: Make, status: int) -> None:
    """
    A redirect is not followed: the error names where the address should point, and no credentials go there.
    """
    with HttpServer().running() as other:
        to = other.url.replace("//", "//somebody:canary@") + "/v2/x?code=canary#canary"
        server.on("/x", Answer(status, headers={"Location": to}))

        with pytest.raises(ConfigError) as caught:
            make(access=Tokens()).post("/x", {})

    assert f"the vendor answered {status} to POST /x, which points to {other.url}/v2; it was not followed" == caught.value.message
    assert ([], 1) == (other.asked, len(server.asked))


def test_a_redirect_to_a_login_names_the_host(server: HttpServer, make: Make) -> None:
    """
    Where the path of a redirect is another one, only the host is named; where there is none, nothing is.
    """
    server.on("/x", Answer(302, headers={"Location": "/login/somebody"}), Answer(302), Answer(302, headers={"Location": "http://[x"}))
    client = make()
    said = []
    for _ in range(3):
        with pytest.raises(ConfigError) as caught:
            client.post("/x", {})
        said.append(caught.value.message.partition("points to ")[2].partition(";")[0])

    assert [server.url, server.url, "nowhere"] == said


def test_a_body_has_a_largest_size(server: HttpServer, make: Make) -> None:
    """
    More than the limit is not read: that is drift, not repeated, and the connection is closed.
    """
    server.on("/x", Answer(fault="huge"))

    with pytest.raises(Drift, match=r"more than 1,000,000 bytes to POST /x"):
        make(max_body=1_000_000).post("/x", {})

    until(lambda: server.left == 1)
    assert 1 == server.count("/x")


def test_a_small_body_may_be_huge(server: HttpServer, make: Make) -> None:
    """
    The limit is on what comes out of a compressed body, not on what arrives.
    """
    server.on("/x", Answer(body=gzip.compress(b" " * 10_000_000), headers=GZIP))

    with pytest.raises(Drift, match=r"more than 1,000,000 bytes to POST /x"):
        make(max_body=1_000_000).post("/x", {})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate for 127.0.0.1 that no authority knows."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def secure(certificate: Path) -> Iterator[HttpServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with HttpServer(context).running() as server:
        server.on("/x", OK)
        yield server


def test_an_authority_of_ones_own(secure: HttpServer, make: Make, certificate: Path) -> None:
    """
    With a file of certificates of one's own the server is trusted, and its connection kept.
    """
    client = make(secure.url, ca=certificate)

    assert [200, 200] == [client.post("/x", {}).status for _ in range(2)]
    assert [1, 1] == [asked.connection for asked in secure.asked]


def test_an_unknown_certificate_is_refused(secure: HttpServer, make: Make) -> None:
    """
    A certificate that nobody vouches for ends the call before anything is sent.
    """
    with pytest.raises(ConfigError, match=r"the certificate of the vendor \(127.0.0.1:\d+\) is not trusted"):
        make(secure.url, access=Tokens()).post("/x", {})

    assert [] == secure.asked


def test_the_deadline_holds_inside_tls(secure: HttpServer, make: Make, certificate: Path) -> None:
    """
    A connection under TLS can be cut like any other.
    """
    secure.on("/x", Answer(fault="dribble headers"))

    with pytest.raises(Unavailable):
        make(secure.url, ca=certificate, deadline=timedelta(seconds=0.5)).post("/x", {})

    until(lambda: secure.left == 1)


@pytest.mark.parametrize("url", ["", "ftp://host", "https://", "https://user:canary@host", "https://host/?q=canary", "https://host:x"])
def test_an_address_has_to_be_one(stop: Stop, url: str) -> None:
    """
    What is no address of an API is refused before anything is sent, and not quoted.
    """
    with pytest.raises(ConfigError, match="the address of the vendor is not one of an API") as caught:
        Client(url, name="the vendor", stop=stop)

    assert "canary" not in str(caught.value) + caught.value.hint


def test_a_file_of_certificates_has_to_be_one(stop: Stop, tmp_path: Path) -> None:
    """
    A file of certificates that is missing or is none is named.
    """
    (tmp_path / "text").write_text("text")
    for name in ("text", "missing"):
        with pytest.raises(ConfigError, match=f"{name} is no file of certificates"):
            Client("https://host", name="the vendor", stop=stop, ca=tmp_path / name)


# Tokens


def needs(token: str) -> Callable[[Asked], Answer]:
    return lambda asked: OK if asked.headers["Authorization"] == f"Bearer {token}" else Answer(401)


def test_a_newer_token_is_asked_for_once(server: HttpServer, make: Make) -> None:
    """
    After a 401 with generation 1 one of a newer generation is asked for, and the call repeated; later calls use it at once.
    """
    tokens = Tokens()
    server.on("/x", needs("token-2"))
    client = make(access=tokens)

    assert [200, 200] == [client.post("/x", {}).status for _ in range(2)]
    assert [0, 1] == tokens.after
    assert ["token-1", "token-2", "token-2"] == [asked.headers["Authorization"][7:] for asked in server.asked]


def test_a_second_401_is_an_error(server: HttpServer, make: Make) -> None:
    """
    A 401 with a new token too means that a person has to authorise. Whether there is a newer one to try is asked each
    time, and where there always is, two are enough.
    """
    tokens = Tokens(most=2)
    server.on("/x", Answer(401, headers={"X-Request-ID": "abc-123"}))

    with pytest.raises(LoginRequired, match=r"answered 401 \(request id abc-123\) to POST /x, with a new token too: no more"):
        make(access=tokens).post("/x", {})
    assert ([0, 1, 2], 2) == (tokens.after, server.count("/x"))
    with pytest.raises(LoginRequired, match=r"answered 401 \(request id abc-123\) to POST /x, with a new token too$"):
        make(access=Tokens()).post("/x", {})
    assert 5 == server.count("/x")
    with pytest.raises(LoginRequired, match="there is no newer token"):
        make(access=lambda _: Access("token", 1)).post("/x", {})
    assert 6 == server.count("/x")


def test_a_token_is_asked_for_again_before_it_ends(server: HttpServer, make: Make) -> None:
    """
    Whoever gives the token says until when it may be used: until then nobody asks again, then everybody gets the next, without a 401.
    """
    given: list[Access] = []

    def access(after: int) -> Access:
        given.append(Access(f"token-{len(given) + 1}", len(given) + 1, time.monotonic() + (0.3 if not given else 60)))
        return given[-1]

    server.on("/x", OK)
    client = make(access=access)
    assert [200] * 8 == [reply.status for reply in client.each(requests(8), workers=4)]
    assert 1 == len(given)
    until(lambda: time.monotonic() > given[0].until)
    assert [200] * 8 == [reply.status for reply in client.each(requests(8), workers=4)]
    assert ["Bearer token-1"] * 8 + ["Bearer token-2"] * 8 == [asked.headers["Authorization"] for asked in server.asked]


def test_threads_share_a_new_token(server: HttpServer, make: Make) -> None:
    """
    When the token ends under many calls at once, one newer one is asked for.
    """
    tokens = Tokens()
    server.on("/x", needs("token-2"))
    client = make(access=tokens)

    assert [200] * 8 == [reply.status for reply in client.each(requests(8), workers=8)]
    assert [0, 1] == tokens.after


def test_no_token_no_request(server: HttpServer, make: Make) -> None:
    """
    Where no token is to be had, its error is raised as it is, and nothing is sent.
    """

    def access(after: int) -> Access:
        raise LoginRequired("nobody has authorised")

    with pytest.raises(LoginRequired, match="nobody has authorised"):
        make(access=access).post("/x", {})

    assert [] == server.asked


# The rate limit


@pytest.mark.parametrize("silent", [False, True], ids=["headers", "no headers"])
def test_no_more_than_the_limit_goes_out(server: HttpServer, make: Make, *, silent: bool) -> None:
    """
    All threads together stay within the window, so that the server never has to refuse, with headers or without.
    """
    window = Window(server, most=20, seconds=0.4, silent=silent)
    server.on("/x", window)

    replies = list(make(limit=RateLimit(20, timedelta(seconds=0.4))).each(requests(60), workers=8))

    assert ([200] * 60, []) == ([reply.status for reply in replies], window.refused)


@pytest.mark.parametrize(
    ("skew", "known"), [(timedelta(), None), (timedelta(minutes=5), 5), (timedelta(minutes=-5), None)], ids=["same", "ahead", "behind"]
)
def test_nothing_arrives_before_reset(server: HttpServer, make: Make, skew: timedelta, known: int | None) -> None:
    """
    When others have used up the limit, a 429 is waited out until its Reset, by the server's clock, and then repeated.
    """
    server.skew = skew
    window = Window(server, most=5, seconds=1.5, others=5)
    server.on("/x", window)

    make(limit=RateLimit(known, timedelta(seconds=1.5))).post("/x", {})

    ((_, reset),) = window.refused
    assert [] == [asked.at for asked in server.asked[1:] if asked.at < reset]
    assert 2 == len(server.asked)


def test_the_first_reply_tells_of_others(server: HttpServer, make: Make) -> None:
    """
    Remaining on a good reply is believed: with others in the window we wait without being refused first.
    """
    window = Window(server, most=5, seconds=1.5, others=4)
    server.on("/x", window)

    assert [200] * 4 == [reply.status for reply in make(limit=RateLimit(5, timedelta(seconds=1.5))).each(requests(4), workers=1)]
    assert [] == window.refused


def test_retry_after_is_obeyed(server: HttpServer, make: Make) -> None:
    """
    Who names a time in Retry-After is not asked before it.
    """
    server.on("/x", Answer(503, headers={"Retry-After": "2"}), OK)

    make().post("/x", {})

    first, second = server.asked
    assert second.at - first.at >= timedelta(seconds=2)


def test_a_longer_wait_than_a_call_may_take(server: HttpServer, make: Make) -> None:
    """
    Who is told to come back in an hour is not kept waiting: status 4 at once.
    """
    server.on("/x", Answer(503, headers={"Retry-After": "3600"}))

    with pytest.raises(Unavailable, match=r"the vendor asks to wait 3,[56]\d\d seconds, and is waited for no longer than 60"):
        make().post("/x", {})

    assert 1 == server.count("/x")


def test_a_wait_is_told_once(server: HttpServer, make: Make) -> None:
    """
    However many threads wait for the same moment, the log has one line, with seconds.
    """
    server.on("/x", Answer(429, headers={"Retry-After": "2"}), OK)
    with structlog.testing.capture_logs() as logs:
        assert [200] * 8 == [reply.status for reply in make().each(requests(8), workers=8)]

    assert [{"event": "waiting for rate limit", "log_level": "info", "seconds": 2}] == logs


def test_a_repetition_is_told(server: HttpServer, make: Make) -> None:
    """
    Each repetition is a warning with the request, the reason and the seconds until it goes out.
    """
    server.on("/x", Answer(502), OK)
    with structlog.testing.capture_logs() as logs:
        make(pause=timedelta(seconds=0.1)).get("/x", {"email": "canary"})

    (line,) = logs
    assert 0.1 <= line.pop("seconds") <= 0.2
    assert {"event": "request repeated", "log_level": "warning", "request": "GET /x", "why": "answered 502", "waits": 60} == line


# Many at once


# One budget for all that a run waits for


NEVER = {
    "hang": Answer(fault="hang"),
    "hang in body": Answer(fault="hang in body"),
    "dribble": Answer(fault="dribble"),
    "reset": Answer(fault="reset"),
    "503": Answer(503),
    "503, Retry-After": Answer(503, headers={"Retry-After": "0"}),
    "429": Answer(429),
    "html": HTML,
}


@pytest.mark.parametrize("how", [*NEVER, "refused", "no such host"])
def test_a_run_waits_so_long_and_no_longer(server: HttpServer, make: Make, stop: Stop, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """
    A server that never answers, in whichever way, is waited for once for all requests of a run; then it is not asked any more.
    What was waited for and for how long is in the message.
    """
    monkeypatch.setattr(rate_limit, "LEAST", 0.1)
    stop.patience = Patience(0.4)
    server.on("/x", NEVER.get(how, OK))
    url = {"refused": f"http://127.0.0.1:{free_port()}", "no such host": "http://no-such-host.invalid"}.get(how, "")
    client, began = make(url, timeout=timedelta(seconds=5)), time.monotonic()

    with pytest.raises(Unavailable, match=r"^the vendor .*") as first:
        client.get("/x")
    assert 2 > time.monotonic() - began
    assert "0 s in all were spent on servers that do not answer (max_wait says so)" in first.value.hint
    assert how not in {"hang", "hang in body"} or "did not answer in time" in first.value.message
    assert how != "no such host" or "no such host name" in first.value.message
    asked, began = len(server.asked), time.monotonic()
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"has not answered before, and was not asked again \(GET /x\)"):
            client.get("/x")
    assert (asked, True) == (len(server.asked), 0.3 > time.monotonic() - began)


def test_servers_that_answer_are_asked_all_the_same(server: HttpServer, make: Make, stop: Stop) -> None:
    """
    What one server has used up is not taken from another: that may answer as slowly as ever, but is not asked twice.
    """
    stop.patience = Patience(0.6)
    with pytest.raises(Unavailable):
        make(f"http://127.0.0.1:{free_port()}").get("/x")
    with HttpServer().running() as other:
        client = stack_client(other, stop)
        other.on("/slow", lambda _: time.sleep(0.4) or OK)  # type: ignore[func-returns-value]
        other.on("/x", Answer(502))
        with contextlib.closing(client):
            assert 200 == client.get("/slow").status
            stop.patience.spend("the vendor", time.monotonic() - 60, lent=False)
            with pytest.raises(Unavailable, match="the other answered 502"):
                client.get("/x")
        assert 1 == other.count("/x")


def stack_client(server: HttpServer, stop: Stop) -> Client:
    return Client(server.url, name="the other", stop=stop, timeout=timedelta(seconds=5), pause=timedelta(seconds=0.01))


def test_threads_wait_for_the_same_seconds(server: HttpServer, make: Make, stop: Stop) -> None:
    """
    Eight requests that hang side by side cost what one costs.
    """
    stop.patience = Patience(60)
    server.on("/x", *[Answer(fault="hang")] * 8, OK)

    replies = list(make(timeout=timedelta(seconds=0.4)).each(requests(8), workers=8))
    assert [200] * 8 == [reply.status for reply in replies]
    server.on("/x", Answer(fault="hang"))
    stop.patience._silent.add("the vendor")
    assert 0.35 < 60 - stop.patience.left("the vendor") < 1.5


def test_planned_waits_cost_nothing(server: HttpServer, make: Make, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Neither our own window nor a 429 that ended well is what a run waits in vain for.
    """
    monkeypatch.setattr(rate_limit, "LEAST", 0.2)
    stop.patience = Patience(0.5)
    server.on("/x", OK)
    server.on("/busy", *[Answer(429), OK] * 4)
    limit = RateLimit(2, timedelta(seconds=0.4))

    assert [200] * 6 == [reply.status for reply in make(limit=limit).each(requests(6), workers=2)]
    assert [200] * 4 == [make().get("/busy").status for _ in range(4)]
    stop.patience._silent.add("the vendor")
    assert 0.4 < stop.patience.left("the vendor")


def test_whoever_waits_hears_of_it(server: HttpServer, make: Make, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A request that hangs is reported while it does, in the log and to the person at the keyboard.
    """
    monkeypatch.setattr(transport, "SILENCE", 0.2)
    said: list[str] = []
    stop.patience = Patience(0.5, said.append)
    server.on("/x", Answer(fault="hang"))
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable, match="did not answer in time"):
        make().get("/x")

    assert ["waiting for an answer"] == [line["event"] for line in logs]
    assert ["usersync: the vendor has not answered for 0 s (GET /x); waiting"] == said


def test_what_no_waiting_helps_is_not_waited_for(make: Make, server: HttpServer) -> None:
    """
    A server that speaks no TLS, or another one, ends with 2 at once.
    """
    server.on("/x", OK)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            with listening.accept()[0] as opened:
                opened.sendall(b"\x15\x03\x03\x00\x02\x02\x28")  # handshake_failure

        alert = threading.Thread(target=refuse)
        alert.start()
        for url in (server.url.replace("http:", "https:"), f"https://127.0.0.1:{listening.getsockname()[1]}"):
            with pytest.raises(ConfigError, match="no TLS connection to the vendor"):
                make(url).get("/x")
        alert.join()


def test_replies_come_in_order(server: HttpServer, make: Make) -> None:
    """
    Replies come in the order of the requests, whichever is ready first; each thread keeps its connection.
    """

    def answer(asked: Asked) -> Answer:
        time.sleep(0.02 if asked.json["number"] % 3 == 0 else 0)
        return Answer(body={"data": asked.json["number"]})

    server.on("/x", answer)

    assert list(range(30)) == [reply.json()["data"] for reply in make().each(requests(30), workers=4)]
    assert len({asked.connection for asked in server.asked}) <= 4


def test_requests_are_drawn_as_there_is_room(server: HttpServer, make: Make) -> None:
    """
    No more requests are drawn than workers, however slowly the replies are taken.
    """
    drawn: list[int] = []

    def endless() -> Iterator[Request]:
        while True:
            drawn.append(len(drawn))
            yield Request("POST", "/x", {})

    server.on("/x", OK)
    replies = make().each(endless(), workers=3)

    assert [] == drawn
    next(replies)
    assert 3 == len(drawn)
    next(replies)
    assert 4 == len(drawn)
    replies.close()  # type: ignore[attr-defined]


def test_an_error_stops_all(server: HttpServer, make: Make) -> None:
    """
    The replies before the error come; then it is raised, what was on its way is cut, and no more goes out.
    """

    def bad(_: Asked) -> Answer:
        until(lambda: server.count("/hang") == 2)
        return Answer(403)

    server.on("/good", OK)
    server.on("/bad", bad)
    server.on("/hang", Answer(fault="hang"))
    got, client = [], make()

    with structlog.testing.capture_logs() as logs, pytest.raises(Forbidden):
        for reply in client.each((Request("POST", path, {}) for path in ["/good", "/bad", "/hang", "/hang", "/good"]), workers=3):
            got.append(reply.status)  # noqa: PERF401  those before the error count

    until(lambda: server.left == 2)
    assert ([200], [], 4) == (got, logs, len(server.asked))
    assert 200 == client.post("/good", {}).status


def test_who_stops_taking_stops_the_requests(server: HttpServer, make: Make) -> None:
    """
    Closing the iterator cuts what is on its way.
    """
    server.on("/good", OK)
    server.on("/hang", Answer(fault="hang"))
    replies = make().each((Request("POST", path, {}) for path in ["/good", "/hang", "/hang"]), workers=3)
    next(replies)
    until(lambda: server.count("/hang") == 2)

    replies.close()  # type: ignore[attr-defined]

    until(lambda: server.left == 2)


# Signals


@pytest.mark.parametrize("fault", ["hang", "hang in body", "dribble", "dribble headers"])
def test_a_signal_ends_a_call(server: HttpServer, make: Make, stop: Stop, fault: Any) -> None:
    """
    SIGTERM ends a call wherever it is, and cuts its connection.
    """
    server.on("/x", Answer(fault=fault))
    signals = signal_later(stop, lambda: server.asked)

    with pytest.raises(Stopped):
        make(deadline=timedelta(hours=1), timeout=timedelta(hours=1)).post("/x", {})

    signals.join()
    until(lambda: server.left == 1)


@pytest.mark.parametrize("answer", [Answer(429, headers={"Retry-After": "50"}), Answer(500)], ids=["limit", "repetition"])
def test_a_signal_ends_a_wait(server: HttpServer, make: Make, stop: Stop, answer: Answer) -> None:
    """
    SIGTERM ends the waits too: for the limit, and before a repetition.
    """
    server.on("/x", answer)
    signals = signal_later(stop, lambda: server.asked)

    with pytest.raises(Stopped):
        list(make(deadline=timedelta(hours=1)).each(requests(20), workers=4))

    signals.join()


def test_a_signal_ends_connecting(make: Make, stop: Stop) -> None:
    """
    SIGTERM also ends a call to a host that does not even answer the knock.
    """
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)  # one may wait here; who comes after it is left without an answer
        for waiting in (first, second):
            waiting.settimeout(0)
            waiting.connect_ex(deaf.getsockname())
        signals = signal_later(stop, threads)

        with pytest.raises(Stopped):
            make(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout=timedelta(seconds=3)).post("/x", {})

        signals.join()


def test_a_signal_waits_for_a_token(server: HttpServer, make: Make, stop: Stop) -> None:
    """
    Who is getting a token when the signal comes is waited for: a token that comes and is not kept would be lost.
    """
    kept = []

    def access(after: int) -> Access:
        stop._note(signal.SIGTERM, None)
        time.sleep(1)  # longer than calls that are given up are waited for otherwise
        kept.append(after)
        return Access("token", after + 1)

    with pytest.raises(Stopped):
        make(access=access).post("/x", {})

    assert ([0], []) == (kept, server.asked)


def test_a_run_lives_as_long_as_the_server_does(server: HttpServer, make: Make, stop: Stop) -> None:
    """
    What arrives is a sign of life, which keeps the lease of the job.
    """
    server.on("/x", OK)
    stop.heard = 0.0

    make().post("/x", {})

    assert stop.heard > 0


# Secrets


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(status, {"errors": [{"title": "canary"}]}, {"X-Canary": "canary"}) for status in (307, 400, 401, 403, 404, 500)),
        Answer(body=b"<html>canary", headers={"Content-Type": "canary canary"}),
        Answer(body=b'{"data": "canary"', fault="truncated"),
        Answer(fault="reset"),
        Answer(fault="hang"),
        Answer(302, headers={"Location": "https://canary:canary@127.0.0.1/?canary#canary"}),
        Answer(400, headers={"X-Request-ID": "canary canary"}),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_errors_hold_no_secret(server: HttpServer, make: Make, answer: Answer, method: str) -> None:
    """
    No error holds a token, a secret, a value of a query string or text of a body, nor does what it was raised from.
    """
    server.on("/x", answer)
    client = make(access=lambda after: Access("canary", after + 1), headers={"X-Key": "canary"}, deadline=timedelta(seconds=0.3))

    with structlog.testing.capture_logs() as logs, pytest.raises(UsersyncError) as caught:
        client.send(Request(method, "/x", {"email": "canary"}, {"email": "canary"}))

    assert [] == [said for said in everything(caught.value) if "canary" in said]
    assert "canary" not in str(logs)


def everything(error: BaseException | None) -> Iterator[str]:
    while error:
        yield f"{error} {error!r} {getattr(error, 'hint', '')}"
        error = error.__cause__ or error.__context__


def test_a_token_that_is_no_header(server: HttpServer, make: Make) -> None:
    """
    A token that can't stand in a header is an error that does not quote it.
    """
    for token in ("canary\n", "canary\u20ac"):
        with pytest.raises(ConfigError, match="no request to the vendor can be made") as caught:
            make(access=lambda _, token=token: Access(token, 1)).post("/x", {})
        assert [] == [said for said in everything(caught.value) if "canary" in said]
    assert [] == server.asked
