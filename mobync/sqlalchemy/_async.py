"""The Synchronizers of this package over an AsyncEngine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session
from sqlalchemy.schema import MetaData

from .._relational.filled import Columns
from .._waiting import Waiting
from ..types import ReadFilter
from ._capture import create_triggers
from ._connections import EngineSource, SessionSource, Source
from ._documents import DocumentSynchronizer
from ._making import create_tables
from ._model import Row
from ._synchronizer import _NONE, SQLAlchemySynchronizer
from ._tasks import IN_A_TASK, IN_A_TASK_TO_THE_END, check_awaited

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..types import DiffDict

AnySession = AsyncSession | async_scoped_session[Any]


class AsyncEngineSource(EngineSource):
    """Transactions of mobync's own, on an AsyncEngine."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine.sync_engine)
        self._async_engine = engine

    def connect(self) -> Connection:
        check_awaited()
        return super().connect()

    def connect_unheard(self) -> Connection:
        check_awaited()
        return super().connect_unheard()

    def before_statement(self) -> None:
        check_awaited()

    def async_connection(self, connection: Connection) -> AsyncConnection:
        return AsyncConnection(self._async_engine, connection)


class AsyncSessionSource(SessionSource):
    """The transactions of an app's AsyncSession."""

    def __init__(self, session: AnySession, table: Table) -> None:
        super().__init__(session, table)  # type: ignore[arg-type]  # _session() knows

    def _session(self) -> Session:
        check_awaited()
        registry: Any = self._registry
        given = registry.registry() if isinstance(registry, async_scoped_session) else registry
        if not isinstance(given, AsyncSession):
            raise TypeError(
                f"the session factory must make an AsyncSession, not {type(given).__name__}"
            )
        return given.sync_session

    def _check_bind(self, bind: object) -> None:
        if not getattr(getattr(bind, "dialect", None), "is_async", False):
            raise TypeError("the AsyncSession must use an AsyncEngine")

    def async_connection(self, connection: Connection) -> AsyncConnection:
        engine: Engine = connection.engine
        return AsyncConnection(AsyncEngine(engine), connection)


class _Async(SQLAlchemySynchronizer):
    """The shared part of the awaited Synchronizers."""

    _waiting: Waiting = IN_A_TASK_TO_THE_END

    def _source_of(self, engine: Any, log: Table) -> Source:
        if isinstance(engine, AsyncEngine):
            if engine.dialect.driver != "aiosqlite":
                self._waiting = IN_A_TASK
            return AsyncEngineSource(engine)
        if isinstance(engine, AsyncSession | async_scoped_session):
            return AsyncSessionSource(engine, log)
        advice = ""
        if isinstance(engine, async_sessionmaker):
            advice = ": give its AsyncEngine, or async_scoped_session(async_sessionmaker, ...)"
        elif isinstance(engine, Engine | Session):
            advice = f": {type(self).__name__.removeprefix('Async')} takes it"
        raise TypeError(
            "engine must be an AsyncEngine, an AsyncSession or an async_scoped_session, "
            f"not {type(engine).__name__}{advice}"
        )

    @property
    def async_connection(self) -> AsyncConnection:
        """:attr:`connection` for rules that are ``async def``.

        Raises:
            RuntimeError: no transaction is open.
        """
        opened = self._transaction()
        if opened.direct is not None:
            opened.direct.settle_at_next_statement()  # nobody waits here
        connection = opened.connection
        source = self._source
        assert isinstance(source, AsyncEngineSource | AsyncSessionSource)
        return source.async_connection(connection)

    async def read_async(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[Row]:
        """The same as :meth:`read`, awaited, for rules that are ``async def`` and for the app."""
        return await self._waiting.run(self.read, where, filters)

    # ``Any``: True or False, or an awaitable of it.

    def validate_create(self, owner_id: str, **diff: Unpack[DiffDict]) -> Any:
        return super().validate_create(owner_id, **diff)

    def validate_update(self, owner_id: str, **diff: Unpack[DiffDict]) -> Any:
        return super().validate_update(owner_id, **diff)

    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> Any:
        return super().validate_delete(owner_id, **diff)


class AsyncSQLAlchemySynchronizer(_Async):
    """A :class:`SQLAlchemySynchronizer` over an AsyncEngine: asyncpg, psycopg, aiosqlite, asyncmy.

    Call ``await mobync.apply_async(...)``, and the other methods of a Mobync with ``_async`` at the
    end of their names. The rules may be ``async def``: they use ``await self.read_async(...)`` and
    ``self.async_connection``. Plain rules use ``self.read`` and ``self.connection``; other tasks
    run while these wait.

    A cancelled task rolls back before it ends, and holds no lock afterwards.

    Args:
        engine: an AsyncEngine, for transactions of mobync's own; or an AsyncSession or an
            async_scoped_session, whose transaction is then shared.
        models, diffs, owner_column, lock_timeout_s, shared, capture: as for
            :class:`SQLAlchemySynchronizer`.
        server_columns, hidden_columns, read_back: as for :class:`SQLAlchemySynchronizer`.

    Raises:
        TypeError, ValueError: as in SQLAlchemySynchronizer.
    """

    def __init__(
        self,
        engine: AsyncEngine | AnySession,
        models: Mapping[str, Table | type[Any]],
        *,
        diffs: Table | type[Any] | None = None,
        owner_column: str = "owner",
        lock_timeout_s: float = 10.0,
        shared: Collection[str] = (),
        capture: bool = False,
        server_columns: Columns = _NONE,
        hidden_columns: Columns = _NONE,
        read_back: Collection[str] = (),
    ) -> None:
        super().__init__(
            engine,
            models,
            diffs=diffs,
            owner_column=owner_column,
            lock_timeout_s=lock_timeout_s,
            shared=shared,
            capture=capture,
            server_columns=server_columns,
            hidden_columns=hidden_columns,
            read_back=read_back,
        )


class AsyncDocumentSynchronizer(_Async, DocumentSynchronizer):
    """A :class:`DocumentSynchronizer` over an AsyncEngine, used like AsyncSQLAlchemySynchronizer.

    Args:
        engine: an AsyncEngine, an AsyncSession or an async_scoped_session.
        metadata, lock_timeout_s: as for :class:`DocumentSynchronizer`.

    Raises:
        TypeError, ValueError: as in DocumentSynchronizer.
    """

    def __init__(
        self,
        engine: AsyncEngine | AnySession,
        metadata: MetaData | None = None,
        *,
        lock_timeout_s: float = 10.0,
    ) -> None:
        DocumentSynchronizer.__init__(self, engine, metadata, lock_timeout_s=lock_timeout_s)


async def create_triggers_async(engine: AsyncEngine, store: AsyncSQLAlchemySynchronizer) -> None:
    """The same as :func:`create_triggers`, for an AsyncEngine.

    Raises:
        TypeError: ``engine`` is not an AsyncEngine, or ``store`` does not capture.
        sqlalchemy.exc.DBAPIError: as in create_triggers().
    """
    if not isinstance(engine, AsyncEngine):
        raise TypeError(f"engine must be an AsyncEngine, not {type(engine).__name__}")
    await IN_A_TASK.run(create_triggers, engine.sync_engine, store)


async def create_tables_async(engine: AsyncEngine, metadata: MetaData) -> None:
    """The same as :func:`create_tables`, for an AsyncEngine.

    Raises:
        TypeError: ``engine`` is not an AsyncEngine, or ``metadata`` is not a MetaData.
        Exception: what else create_tables() raises.
    """
    if not isinstance(engine, AsyncEngine):
        raise TypeError(f"engine must be an AsyncEngine, not {type(engine).__name__}")
    await IN_A_TASK.run(create_tables, engine.sync_engine, metadata)
