"""What `latencyprism doctor` looks at; each check gives findings and changes nothing."""

from latencyprism.checks.finding import Finding

__all__ = ["Finding"]
