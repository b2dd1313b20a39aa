"""mobync.http.fastapi: an app with an async engine gets sync by the lines of docs/http.md."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import async_databases
import http_servers
import pytest
import requests
from async_databases import Opened
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import ForeignKey, String, insert, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from task_list import diff
from test_http_docs import example

from mobync import Mobync
from mobync.http import Endpoint
from mobync.http.fastapi import router
from mobync.live import InProcessLive
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import AsyncSQLAlchemySynchronizer

opened = async_databases.opened

TITLE = "FastAPI with an async engine"
TIMEOUT_S = 60


class Base(DeclarativeBase):
    """The models of an app that knows nothing of mobync."""


class User(Base):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    token: Mapped[str] = mapped_column(String(40))


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    text: Mapped[str | None] = mapped_column(String(100))


def an_app(engine: AsyncEngine) -> ModuleType:
    """An app as people have it: a session of each request, and who is signed in."""
    module = ModuleType("app")
    sessions = async_sessionmaker(engine)
    scheme = OAuth2PasswordBearer("token")

    async def session() -> Any:
        async with sessions() as opened:
            yield opened

    async def current_user(
        token: str = Depends(scheme),
        session: AsyncSession = Depends(session),  # noqa: B008
    ) -> User:
        user = await session.scalar(select(User).where(User.token == token))
        if user is None:
            raise HTTPException(401, "who are you?")
        return user

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(User).values(id="anna", token="secret"))
        yield
        await engine.dispose()

    module.__dict__.update(
        app=FastAPI(lifespan=lifespan),
        engine=engine,
        Note=Note,
        User=User,
        current_user=current_user,
    )
    return module


@pytest.fixture
def synced(opened: Opened) -> Iterator[ModuleType]:
    """The app after the lines of the documentation."""
    sys.modules["app"] = module = an_app(opened.new_engine())
    try:
        exec(compile(example(TITLE), "docs/http.md", "exec"), module.__dict__)
        yield module
    finally:
        del sys.modules["app"]


def ask(address: Any, body: dict[str, Any], token: str = "secret", path: str = "/sync") -> Any:
    host, port = address
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.post(
        f"http://{host}:{port}{path}", json=body, headers=headers, timeout=TIMEOUT_S
    )


def test_an_app_gets_sync_by_at_most_fifteen_lines(synced: ModuleType) -> None:
    lines = [line for line in example(TITLE).splitlines() if line.strip()]
    assert len(lines) <= 15

    with http_servers.on_uvicorn(synced.app, lifespan="on") as address:
        sent = {"logical_clock": 0, "diffs": [diff("create", "notes", id="n", text="milk")]}
        assert ask(address, sent).json()["logical_clock"] == 1
        got = ask(address, {"logical_clock": 0, "diffs": []}).json()["diffs"]
        assert [json.loads(each["json_data"]) for each in got] == [{"id": "n", "text": "milk"}]
        stolen = ask(address, sent, "nobody's")
        assert (stolen.status_code, stolen.json()) == (401, {"detail": "who are you?"})
        assert ask(address, sent, "").status_code == 401
        page = {"collection": "notes", "limit": 10, "checkpoint": None}
        assert ask(address, page, path="/sync/rxdb/pull").json()["documents"][0]["id"] == "n"


@pytest.mark.parametrize("opened", ["aiosqlite"], indirect=True)
def test_the_openapi_has_the_security_scheme_and_the_models(synced: ModuleType) -> None:
    found = synced.app.openapi()
    sync = found["paths"]["/sync"]["post"]
    assert sync["security"] == [{"OAuth2PasswordBearer": []}]
    body = sync["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["required"]) == {"logical_clock", "diffs"}
    reply = sync["responses"]["200"]["content"]["application/json"]["schema"]
    assert reply == {"$ref": "#/components/schemas/MobyncReply"}
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(found)):
        assert reference in found["components"]["schemas"]
    assert {"400", "401", "403", "409", "413", "415", "503"} <= sync["responses"].keys()


def test_an_endpoint_tells_of_its_token_in_the_openapi() -> None:
    app = FastAPI()
    endpoint = Endpoint(Mobync(MemorySynchronizer()), lambda token, headers: token)
    app.include_router(router(endpoint))
    assert app.openapi()["paths"]["/sync"]["post"]["security"] == [{"HTTPBearer": []}]


def test_events_and_async_rules_and_an_async_authenticate(tmp_path: Path) -> None:
    module = an_app(create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db"))

    class Store(AsyncSQLAlchemySynchronizer):
        async def validate_create(self, owner_id: str, **sent: Any) -> bool:
            return not await self.read_async("notes")

    async def authenticate(token: str | None, headers: Any) -> str | None:
        await asyncio.sleep(0)
        return "anna" if token == "secret" else None

    mobync = Mobync(Store(module.engine, {"notes": Note}, owner_column="user_id"))
    live = InProcessLive()
    mobync.listen(live.announce)
    module.app.include_router(router(Endpoint(mobync, authenticate, live=live)))

    with http_servers.on_uvicorn(module.app, lifespan="on") as address:
        host, port = address
        events = requests.get(
            f"http://{host}:{port}/sync/events",
            headers={"Authorization": "Bearer secret"},
            stream=True,
            timeout=TIMEOUT_S,
        )
        with events:
            lines = events.iter_lines(chunk_size=1)
            first = {"logical_clock": 0, "diffs": [diff("create", "notes", id="n")]}
            assert ask(address, first).status_code == 200
            assert next(line for line in lines if line == b"data: 1")
        second = {"logical_clock": 1, "diffs": [diff("create", "notes", id="m")]}
        refused = ask(address, second)
        assert (refused.status_code, refused.json()["code"]) == (403, "unauthorized")
        assert ask(address, second, "nobody's").status_code == 401
        live.hang_up()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ((Mobync(MemorySynchronizer()),), r"give router\(mobync, owner\)"),
        ((Mobync(MemorySynchronizer()), "anna"), "owner must be a dependency"),
        (("mobync", lambda: "anna"), r"give router\(mobync, owner\)"),
    ],
)
def test_a_router_that_cannot_be_is_refused(arguments: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        router(*arguments)


def test_an_adapter_that_is_not_of_asyncio_refuses_a_store_that_is() -> None:
    from flask import Flask

    from mobync.http.flask import MobyncSync

    engine = create_async_engine("sqlite+aiosqlite://")
    mobync = Mobync(AsyncSQLAlchemySynchronizer(engine, {"notes": Note}, owner_column="user_id"))
    with pytest.raises(TypeError, match=r"serve it with mobync\.http\.asgi"):
        MobyncSync().init_app(Flask(__name__), Endpoint(mobync, lambda token, headers: token))
