"""The calls that make one person's account as it is wanted, and what is written down after each of them."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from usersync_cli import log
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import Drift, PartialError, Unavailable, UsersyncError
from usersync_cli.state import outbox, rejects
from usersync_cli.state.dispatch import Calls
from usersync_cli.state.outbox import Intent, StepContext
from usersync_cli.state.rejects import Reject
from usersync_cli.targets.keycloak.credentials import Credentials
from usersync_cli.targets.keycloak.logins import FirstPassword, NoPassword, credentials, no_account, not_mailed
from usersync_cli.targets.keycloak.plan.conflicts import MAIL_FAILED, REFUSED, STILL_ENABLED
from usersync_cli.targets.keycloak.plan.summary import AccountPlan
from usersync_cli.targets.keycloak.realm import Gone, NameTaken, Rejected, Unknown
from usersync_cli.targets.keycloak.refusals import what_helps
from usersync_cli.targets.keycloak.rules import ATTRIBUTE, ATTRIBUTE_HINT, keys_of

if TYPE_CHECKING:
    from usersync_cli.targets.keycloak.realm import Realm
    from usersync_cli.targets.keycloak.settings import Settings

IN_A_ROW = 3  # calls without an answer, and nobody else's is tried
_TAKEN = {"same_username": "username_taken", "same_email": "email_taken", "same_username_or_email": "username_taken"}


class AccountCalls:
    """The calls that make each person's account as it is wanted. Counts what was refused, mailed and left to the next run."""

    def __init__(self, realm: Realm, own: Settings, plan: AccountPlan, tx: Connection, context: StepContext) -> None:
        self._realm, self._own, self._plan, self._tx = realm, own, plan, tx
        self._credentials = Credentials(context.credentials) if context.credentials else None
        self._judge = context.judge
        self._unanswered = self._left = self._without_password = self._no_account = self._kept = 0
        self._unmailed = self._not_sent = 0  # mails: in a row, and all of them
        self._why_kept = ("", "")
        self._problem: UsersyncError | None = None
        self._refused: NoPassword | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._credentials:
            self._credentials.close()

    def complain(self) -> None:
        """Report what is left to the next run, and people who can't log in yet. Raises Unavailable, or ConfigError for passwords."""
        if self._without_password:
            log.get().warning(
                "new accounts have no password yet: `usersync keycloak reset-password` mails a link;"
                " --credentials-out or notify: email would have given them one",
                accounts=self._without_password,
            )
        if self._kept:
            self._plan.problems.append(still_enabled(self._plan.name, self._plan.scope.job, self._kept, *self._why_kept))
        if self._not_sent:
            self._plan.problems.append(not_mailed(self._plan.name, self._plan.scope.job, self._not_sent))
        if self._refused:
            refused = self._refused
            raise no_account(self._plan.name, self._no_account, refused.message, refused.hint) from refused
        if self._problem:
            raise Unavailable(
                f"{self._problem.message}; the calls for {self._left:,} of the people are left to the next run", hint=self._problem.hint
            ) from self._problem

    # each person

    def calls(self, intent: Intent) -> Calls:
        """The calls for one person, in their order."""
        if intent.action == "disable":
            yield from self._disable(intent)
        else:
            yield from self._keep_equal(intent)
        outbox.finish(self._tx, self._plan.scope, intent)
        self._unanswered = 0
        self._judge(1, {})

    def _disable(self, intent: Intent) -> Calls:
        """Disable the account of a person who left. Where Keycloak refuses, it is signed out all the same, and loses what we gave."""
        account, refused = str(intent.account), None
        try:
            yield partial(self._realm.update, account, {"enabled": False})
            self._did(intent, "disable")
        except Gone:
            return
        except Rejected as error:
            refused = error
        yield partial(self._realm.logout, account)
        self._did(intent, "logout")
        if refused:
            yield from self._take(intent)
            raise refused
        self._forget_reject(intent)

    def _keep_equal(self, intent: Intent) -> Calls:
        """Make the account equal. Roles and groups are taken first, so that this does not depend on what Keycloak refuses later."""
        refused = None
        if intent.account:
            yield from self._take(intent)
        try:
            account = yield from self._account(intent)
        except Rejected as error:
            if intent.action != "update":
                raise
            account, refused = str(intent.account), error
            yield from self._back(intent)
        yield from self._give(intent, account)
        if refused:
            raise refused
        yield from self._mail(intent, account)

    def park(self, intent: Intent) -> Calls:
        """Give the account a placeholder name or address, because another person takes its own, until it gets its new one."""
        yield partial(self._realm.update, str(intent.account), intent.wanted["park"])
        self._did(intent, "park")

    def _back(self, intent: Intent) -> Calls:
        """Give the account its old name again after the new one was refused, unless somebody else has it by now."""
        if "back" in intent.wanted:
            try:
                yield partial(self._realm.update, str(intent.account), intent.wanted["back"])
            except Rejected as error:
                log.get().warning("an account keeps a user name or address for the time being", account=intent.account, why=error.code)

    def _account(self, intent: Intent) -> Generator[Any, Any, str]:
        """Make it, take it over, or bring its fields up to date."""
        if intent.action == "create":
            return (yield from self._create(intent))
        account, changes = str(intent.account), intent.wanted["changes"]
        if intent.action == "adopt":
            found = yield partial(self._realm.replace, account, partial(self._adopted, key=intent.key, changes=changes))
            if intent.key not in keys_of(found):
                raise Drift(
                    f"target {self._plan.name}: Keycloak took {ATTRIBUTE} without an error, and does not have it", hint=ATTRIBUTE_HINT
                )
            self._did(intent, "adopt")
        elif changes:
            yield partial(self._realm.update, account, changes)
            self._did(intent, "update")
        if intent.action == "finish":
            yield from self._password(intent, account)
        return account

    @staticmethod
    def _adopted(user: dict[str, Any], *, key: str, changes: dict[str, Any]) -> dict[str, Any]:
        return {**user, **changes, "attributes": {**(user.get("attributes") or {}), ATTRIBUTE: [key]}}

    def _create(self, intent: Intent) -> Generator[Any, Any, str]:
        if self._refused:  # those of others were, so it is not the person
            raise self._refused
        user = intent.wanted["user"]
        first = FirstPassword(self._plan.passwords, user["username"], user.get("email", ""))
        ours = True
        try:
            account = yield partial(first.give, lambda password: self._realm.create({**user, **credentials(password)}))
        except (Unknown, NameTaken) as error:  # perhaps it was made all the same, by this call or by one before
            account = yield partial(self._look_up, user["username"], intent.key)
            if account is None:
                raise
            ours = isinstance(error, Unknown)
        if ours:
            self._tell(user["username"], first)
        outbox.created(self._tx, self._plan.scope, intent, account)
        if not ours:
            yield from self._password(intent, account)
        return str(account)

    def _look_up(self, username: str, key: str) -> str | None:
        """The account with exactly this user name, if it carries our id for this person."""
        found = self._realm.find(username=username)
        return next((str(user["id"]) for user in found if key in keys_of(user)), None)

    def _password(self, intent: Intent, account: str) -> Calls:
        """Set another first password on an account that was made without an answer: nobody knows the one that it has."""
        user = intent.wanted.get("user") or intent.wanted
        first = FirstPassword(self._plan.passwords, user["username"], user.get("email") or "")
        yield partial(first.give, lambda password: self._realm.reset_password(account, password) if password else None)
        self._tell(user["username"], first)
        self._did(intent, "password")

    def _tell(self, username: str, first: FirstPassword) -> None:
        if self._credentials and first.value:
            self._credentials.write(username, first.value)
        elif self._own.notify == "none":
            self._without_password += 1

    def _take(self, intent: Intent) -> Calls:
        wanted, roles, groups, account = intent.wanted, self._plan.roles, self._plan.groups, str(intent.account)
        if remove := [roles[name] for name in wanted.get("remove_roles", ()) if name in roles]:
            yield partial(self._realm.remove_roles, account, remove)
            self._did(intent, "remove_roles")
        for path in wanted.get("leave", ()):
            yield partial(self._realm.leave, account, groups[path])
            self._did(intent, "leave")

    def _give(self, intent: Intent, account: str) -> Calls:
        wanted, roles, groups = intent.wanted, self._plan.roles, self._plan.groups
        if add := [roles[name] for name in wanted["add_roles"]]:
            yield partial(self._realm.add_roles, account, add)
            self._did(intent, "add_roles")
        for path in wanted.get("join", ()):
            yield partial(self._realm.join, account, groups[path])
            self._did(intent, "join")

    def _mail(self, intent: Intent, account: str) -> Calls:
        """Send the mail at most once: it counts as being sent before it is, and as owed again only when the realm says it was not sent."""
        if not intent.wanted.get("mail"):
            return
        if self._unmailed >= IN_A_ROW:
            self._owed(intent, "others were not sent either")
            return
        outbox.mail(self._tx, self._plan.scope, intent, "sending")
        try:
            yield partial(self._realm.send_actions, account, self._own.required_actions, self._own.link_lifespan)
        except Unknown:
            self._unmailed += 1
            self._owed(intent, "no answer: it may have been sent")
        except (Rejected, Unavailable) as error:
            self._unmailed += 1
            outbox.mail(self._tx, self._plan.scope, intent, "owed")
            self._owed(intent, error.code if isinstance(error, Rejected) else "the mail server took none")
        else:
            self._unmailed = 0
            outbox.mail(self._tx, self._plan.scope, intent, "sent")
            self._sent(intent)

    def _owed(self, intent: Intent, why: str) -> None:
        """Set the unsent mail aside for somebody to look at; the account is made all the same."""
        self._not_sent += 1
        if intent.wanted["mail"] == "first":
            self._file(intent, MAIL_FAILED, why)

    def _sent(self, intent: Intent) -> None:
        """Resolve the reject that waited for this mail."""
        wanted, scope = intent.wanted, self._plan.scope
        if wanted["mail"] == "again":
            rejects.resolve(self._tx, scope.job, scope.step, scope.stream, [intent.key], part=MAIL_FAILED)
        if wanted["mail"] == "again" and wanted["alone"]:
            self._plan.counts.rejected -= 1
            self._plan.counts.unchanged += wanted["quiet"]
            self._plan.counts.updated += not wanted["quiet"]

    def _did(self, intent: Intent, what: str) -> None:
        outbox.did(self._tx, intent, what)

    def _forget_reject(self, intent: Intent) -> None:
        """Resolve the reject of an earlier run that could not disable this account."""
        scope = self._plan.scope
        rejects.resolve(self._tx, scope.job, scope.step, scope.stream, [intent.key], part=STILL_ENABLED)

    # what went wrong

    def failed(self, intent: Intent, error: UsersyncError) -> None:
        """Set aside a person whom Keycloak refuses; leave to the next run one without an answer, password or account. Raises all else."""
        counts = self._plan.counts
        if isinstance(error, Rejected):
            self._refused_by_keycloak(intent, error)
            return
        if isinstance(error, NoPassword):
            self._refused, self._no_account = error, self._no_account + 1
            _less(intent, counts)
            counts.read -= 1
            return
        if not isinstance(error, (Unavailable, Gone)):
            raise error
        self._left += 1
        self._unanswered += isinstance(error, Unavailable)
        self._problem = self._problem or error
        _less(intent, counts)
        counts.read -= intent.action != "disable"
        if self._unanswered >= IN_A_ROW:
            raise error

    def _refused_by_keycloak(self, intent: Intent, error: Rejected) -> None:
        """Set the person aside. People who left and can't be disabled do not count towards the limit of refusals."""
        said = f"{error.code or 'refused'}{f' of {error.field}' if error.field else ''}"
        outbox.end(self._tx, intent, "refused", said)
        if intent.action == "disable":
            self._still_enabled(intent, error, said)
            return
        reason = _TAKEN.get(error.code, REFUSED)
        self._set_aside(intent, reason, said if reason == REFUSED else "Keycloak says that another account has it")
        self._judge(1, {(reason, error.code): 1})

    def _still_enabled(self, intent: Intent, error: Rejected, said: str) -> None:
        _less(intent, self._plan.counts)
        if not self._file(intent, STILL_ENABLED, said, b"{}").dropped:
            self._kept, self._why_kept = self._kept + 1, (said, what_helps(error))

    def _set_aside(self, intent: Intent, reason: str, detail: str) -> None:
        _less(intent, self._plan.counts)
        self._plan.counts.rejected += 1
        self._file(intent, reason, detail)

    def _file(self, intent: Intent, reason: str, detail: str, document: bytes = b"") -> rejects.Stored:
        scope, document = self._plan.scope, document or str(intent.wanted["document"]).encode()
        found = Reject(intent.key, reason, detail, document, part=reason)
        return rejects.store(self._tx, scope.job, scope.step, scope.stream, scope.run_id, [found])


class ParkingCalls:
    """The calls by which accounts give up names that others take. An account whose call fails keeps its name for this run."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls

    def calls(self, intent: Intent) -> Calls:
        return self._calls.park(intent)

    def failed(self, intent: Intent, error: UsersyncError) -> None:
        if not isinstance(error, (Rejected, Unavailable, Gone)):
            raise error
        log.get().warning("a user name or address could not be given up yet", account=intent.account, why=type(error).__name__)


def still_enabled(target: str, job: str, accounts: int, why: str, helps: str) -> PartialError:
    """The error for accounts of people who left that Keycloak refuses to disable."""
    who, them = ("1 account of somebody who left is", "it") if accounts == 1 else (f"{accounts:,} accounts of people who left are", "them")
    return PartialError(
        f"target {target}: {who} still enabled, because Keycloak refuses to disable {them} ({why}); signed out, and without the roles"
        " that usersync gave",
        hint=f"{helps}; the next run tries again. usersync rejects list --job {job}",
    )


def _less(intent: Intent, counts: Any) -> None:
    """Take a planned change that did not happen off the counts."""
    name = intent.wanted.get("counted", "gone")  # of a person who left nothing else is wanted
    setattr(counts, name, max(0, getattr(counts, name) - 1))
