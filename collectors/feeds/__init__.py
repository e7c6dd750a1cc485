"""What engines say themselves of each iteration, where their operators switched that on.

One file for each kind of feed that ``[feed]`` of an engine's description may name, see
docs/engines.md. Nothing is switched on from here, and nothing but numbers is taken.
"""

from collectors.feeds.base import Feed, FeedEnded, FeedUnavailable, Said
from collectors.feeds.listener import Listener

__all__ = ["Feed", "FeedEnded", "FeedUnavailable", "Listener", "Said"]
