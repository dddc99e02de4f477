"""Model and example inputs in, Graph out."""

from prunus.trace.graph import Graph, Group, Member
from prunus.trace.run import trace

__all__ = ["Graph", "Group", "Member", "trace"]
