"""The settings of every published protocol, as fields of a config."""

from dataclasses import dataclass, field, replace
from typing import Self

from jaxdd.students.protocol import PROTOCOLS, Protocol, named

_FIELDS = {"hard": "hard", "soft": "soft", "wmdd": "wmdd", "ddoq": "ddoq", "dd-ranking": "dd_ranking"}


@dataclass(frozen=True)
class ProtocolConfig:
    """The settings of each protocol, by which students are trained."""

    hard: Protocol = field(default_factory=lambda: PROTOCOLS["hard"])
    soft: Protocol = field(default_factory=lambda: PROTOCOLS["soft"])
    wmdd: Protocol = field(default_factory=lambda: PROTOCOLS["wmdd"])
    ddoq: Protocol = field(default_factory=lambda: PROTOCOLS["ddoq"])
    dd_ranking: Protocol = field(default_factory=lambda: PROTOCOLS["dd-ranking"])

    def lasting(self, epochs: int) -> Self:
        """The same config with another number of epochs for every protocol."""
        protocols = {name: getattr(self, name) for name in _FIELDS.values()}
        return replace(self, **{name: _lasting(protocol, epochs) for name, protocol in protocols.items()})

    def protocol(self, name: str) -> Protocol:
        """`students.protocol.named` with the settings of this config.

        Raises:
          InputError: an unknown name, or unknown settings.
        """
        return named(name, {known: getattr(self, attribute) for known, attribute in _FIELDS.items()})


def _lasting(protocol: Protocol, epochs: int) -> Protocol:
    return replace(protocol, train=replace(protocol.train, epochs=epochs))
