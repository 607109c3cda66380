"""The engine on Redis: the contract by one node and by two, and what happens when Redis does not do its part."""

from __future__ import annotations

import os

import pytest

from tests.brokers.contract import BrokerContract, TwoNodeContract
from tests.brokers.redis_servers import RedisServer, needs_redis
from webmesh.brokers.redis import RedisBroker

pytestmark = needs_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


class OnRedis:
    """Each test has a prefix of its own on the server of the module."""

    @pytest.fixture(autouse=True)
    def _place(self, server: RedisServer):
        self.server = server
        self.prefix = os.urandom(4).hex()

    def url(self) -> str:
        return f"{self.server.url}?prefix={self.prefix}&lease=1"

    def open_broker(self, number: int) -> RedisBroker:
        return RedisBroker(self.url())


class TestRedis(OnRedis, BrokerContract):
    """One node."""


class TestRedisNodes(OnRedis, TwoNodeContract):
    """Two nodes."""
