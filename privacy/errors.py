"""Every error that FedSeal raises on purpose, as one tree.

A message says what was wrong, where, and what to do. It never holds a key, a record or a weight, because refusals
travel to the server. Programming mistakes stay ValueError and RuntimeError.

    FedSealError
    ├── PlanInvalid             a setting is unknown, out of range, or contradicts another
    ├── TaskInvalid             a task can't be loaded, or breaks what a task promises
    │   └── ModelUnsupported    a module that DP-SGD can't serve
    ├── DataInvalid             rows are missing, misshapen or too few
    ├── MechanismUnsound        facts that no accountant can price
    ├── BudgetExhausted         a round would pass the site's budget; nothing was touched
    ├── OrderRefused            what a site won't do, whatever the server asks
    │   ├── NotJoined           the site is no member of this encrypted run, or has forgotten it
    │   ├── ModelDiffers        the site holds another model than the other members of an encrypted run
    │   ├── ValueTooLarge       an update holds a value that its encryption can't carry
    │   └── SumRefused          an encrypted sum is not that of the reports that it came with
    ├── MembershipRefused       who is said to belong to an encrypted run can't be believed
    ├── RunFailed               a run could not start or go on
    ├── StorageFailed           the disk refused: full, read-only or failing; what was there before stands
    ├── StorageBusy             another process is changing this folder
    ├── KeyRefused              what is sealed can't be unlocked
    │   ├── WrongPassphrase     the passphrase is another one, or the keyring was changed
    │   ├── WrongKeyFile        the key file is another one, or the keyring was changed
    │   ├── KeyFileInvalid      no key file, or one that others may read
    │   ├── KeyStoreUnavailable the outside key store does not answer
    │   ├── KeyStoreDenied      the outside key store answers no
    │   ├── LockChanged         the safe got another lock after this process unlocked it
    │   ├── KeyringDamaged      the keyring is missing, or no keyring of this version
    │   └── EpochRetired        the key was deleted on purpose: what it sealed is gone for ever
    ├── ObjectMissing           no sealed object has that name
    ├── ObjectDamaged           changed, cut, or moved here from another name, kind, version or owner
    ├── IdentityRefused         a signature or a sealed message is not from, or not for, who it says
    ├── CheckpointInvalid       a signed checkpoint can't be read
    ├── LedgerCorrupt           an entry or checkpoint of a ledger was changed, or is missing
    ├── LedgerRolledBack        a ledger is an older copy, or another history, than somebody knows
    └── ReportRefused           a reply that the server won't add to the sum
        ├── WrongRun            made for another run
        ├── LateReport          made for a round that is over
        ├── WrongPlan           made under another plan
        ├── MissingTensor       the update is not there
        ├── WrongShape          the update has another length, dtype or layout
        ├── NotFinite           the update holds NaN, infinity or an absurdly large value
        ├── DuplicateReport     the site has answered this round already
        ├── UnknownSite         the site is not in this round's cohort
        ├── WrongMechanism      the stated mechanism is not the plan's
        ├── MalformedReceipt    a proof of the site's ledger is missing, or does not hold
        ├── StaleLedger         the site's ledger is an older copy than it showed before
        ├── ForkedLedger        the site's ledger is another history than it signed before
        ├── WrongReserve        the site's ledger reserved something else than what the report says
        ├── MalformedCiphertext a ciphertext was cut, changed, or is none
        ├── ForeignCiphertext   a ciphertext of another run, round, site, purpose or encryption
        ├── TooManySites        one more ciphertext could make the sum decrypt wrong
        └── MalformedReport     the message can't be read at all
"""


class FedSealError(Exception):
    """The root: catch this to catch every refusal of FedSeal's.

    told: the message in words that may leave the machine; the message itself where nothing in it is the site's own
    """

    def __init__(self, message: str = "", told: str = "") -> None:
        super().__init__(message)
        self.told = told or message


class PlanInvalid(FedSealError):
    """A setting is unknown, out of range, or contradicts another."""


class TaskInvalid(FedSealError):
    """A task can't be loaded, or breaks what a task promises."""


class ModelUnsupported(TaskInvalid):
    """A module that DP-SGD can't serve."""


class DataInvalid(FedSealError):
    """Rows are missing, misshapen or too few."""


class MechanismUnsound(FedSealError):
    """Facts that no accountant can price."""


class BudgetExhausted(FedSealError):
    """A round would pass the site's budget; nothing was touched."""


class OrderRefused(FedSealError):
    """What a site won't do, whatever the server asks."""


class NotJoined(OrderRefused):
    """The site is no member of this encrypted run, or has forgotten it."""


class ModelDiffers(OrderRefused):
    """The site holds another model than the other members of an encrypted run."""


class ValueTooLarge(OrderRefused):
    """An update holds a value that its encryption can't carry."""


class SumRefused(OrderRefused):
    """An encrypted sum is not that of the reports that it came with."""


class MembershipRefused(FedSealError):
    """Who is said to belong to an encrypted run can't be believed."""


class RunFailed(FedSealError):
    """A run could not start or go on."""


class StorageFailed(FedSealError):
    """The disk refused: full, read-only or failing; what was there before stands."""


class StorageBusy(FedSealError):
    """Another process is changing this folder."""


class KeyRefused(FedSealError):
    """What is sealed can't be unlocked."""


class WrongPassphrase(KeyRefused):
    """The passphrase is another one, or the keyring was changed."""


class WrongKeyFile(KeyRefused):
    """The key file is another one, or the keyring was changed."""


class KeyFileInvalid(KeyRefused):
    """No key file, or one that others may read."""


class KeyStoreUnavailable(KeyRefused):
    """The outside key store does not answer."""


class KeyStoreDenied(KeyRefused):
    """The outside key store answers no."""


class LockChanged(KeyRefused):
    """The safe got another lock after this process unlocked it."""


class KeyringDamaged(KeyRefused):
    """The keyring is missing, or no keyring of this version."""


class EpochRetired(KeyRefused):
    """The key was deleted on purpose: what it sealed is gone for ever."""


class ObjectMissing(FedSealError):
    """No sealed object has that name."""


class ObjectDamaged(FedSealError):
    """Changed, cut, or moved here from another name, kind, version or owner."""


class IdentityRefused(FedSealError):
    """A signature or a sealed message is not from, or not for, who it says."""


class CheckpointInvalid(FedSealError):
    """A signed checkpoint can't be read."""


class LedgerCorrupt(FedSealError):
    """An entry or checkpoint of a ledger was changed, or is missing."""


class LedgerRolledBack(FedSealError):
    """A ledger is an older copy, or another history, than somebody knows."""


class ReportRefused(FedSealError):
    """A reply that the server won't add to the sum."""


class WrongRun(ReportRefused):
    """Made for another run."""


class LateReport(ReportRefused):
    """Made for a round that is over."""


class WrongPlan(ReportRefused):
    """Made under another plan."""


class MissingTensor(ReportRefused):
    """The update is not there."""


class WrongShape(ReportRefused):
    """The update has another length, dtype or layout."""


class NotFinite(ReportRefused):
    """The update holds NaN, infinity or an absurdly large value."""


class DuplicateReport(ReportRefused):
    """The site has answered this round already."""


class UnknownSite(ReportRefused):
    """The site is not in this round's cohort."""


class WrongMechanism(ReportRefused):
    """The stated mechanism is not the plan's."""


class MalformedReceipt(ReportRefused):
    """A proof of the site's ledger is missing, or does not hold."""


class StaleLedger(ReportRefused):
    """The site's ledger is an older copy than it showed before."""


class ForkedLedger(ReportRefused):
    """The site's ledger is another history than it signed before."""


class WrongReserve(ReportRefused):
    """The site's ledger reserved something else than what the report says."""


class MalformedReport(ReportRefused):
    """The message can't be read at all."""


class MalformedCiphertext(ReportRefused):
    """A ciphertext was cut, changed, or is none."""


class ForeignCiphertext(ReportRefused):
    """A ciphertext of another run, round, site, purpose or encryption."""


class TooManySites(ReportRefused):
    """One more ciphertext could make the sum decrypt wrong."""
