"""The options of `mobync serve` for tokens of other issuers and scripts of other sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from .._extras import install
from ._shared import check_text
from .settings import Settings
from .tokens import JWT_SECRET_VARIABLE

F = TypeVar("F", bound=Callable[..., Any])


def _check_texts(
    context: click.Context, parameter: click.Parameter, texts: Sequence[str]
) -> Sequence[str]:
    for text in texts:
        check_text(context, parameter, text)
    return texts


def _check_origins(
    context: click.Context, parameter: click.Parameter, origins: Sequence[str]
) -> Sequence[str]:
    if origins:
        from ._cors import check_origin  # slow, and of no use to the other commands

        for origin in origins:
            try:
                check_origin(origin)
            except ValueError as error:
                raise click.BadParameter(str(error)) from error
    return origins


_OPTIONS = (
    click.option(
        "--allow-origin",
        metavar="ORIGIN",
        multiple=True,
        callback=_check_origins,
        help="A site whose scripts may sync, such as https://app.example. Can be given several "
        "times.",
    ),
    click.option(
        "--jwt-secret-file",
        type=click.Path(dir_okay=False, resolve_path=True),
        envvar="MOBYNC_JWT_SECRET_FILE",
        show_envvar=True,
        help="A file with the secret that signs your app's JWTs, which devices may then send. "
        f"{JWT_SECRET_VARIABLE} in the environment has priority.",
    ),
    click.option(
        "--jwks",
        metavar="URL|FILE",
        callback=check_text,
        envvar="MOBYNC_JWKS",
        show_envvar=True,
        help="The JSON Web Key Set that verifies the JWTs of devices.",
    ),
    click.option(
        "--jwt-owner-claim",
        metavar="NAME",
        default="sub",
        show_default=True,
        callback=check_text,
        help="The claim of a JWT that is the owner's id.",
    ),
    click.option(
        "--jwt-audience",
        metavar="TEXT",
        multiple=True,
        callback=_check_texts,
        help="An audience that a JWT must have (aud). Can be given several times: one of them is "
        "enough. Without it, a JWT must have no audience.",
    ),
    click.option(
        "--jwt-issuer",
        metavar="TEXT",
        callback=check_text,
        help="The issuer that a JWT must have (iss).",
    ),
)


def access_options(command: F) -> F:
    """Give a command these options, with the names of Settings."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def check_access(settings: Settings) -> None:
    """Find out now whether JWTs can be verified, before a device sends one."""
    try:
        from ._jwt import load_jwts  # slow, and of no use to the other commands
        from ._keys import KeysError
    except ImportError as error:
        raise click.ClickException(f"JWTs need {error.name}: {install('server')}") from error
    jwts = None
    try:
        jwts = load_jwts(settings)
        if jwts is not None:
            jwts.load_keys()
    except KeysError as error:
        raise click.ClickException(f"--jwks: {error}") from error
    options = (settings.jwt_audience, settings.jwt_issuer, settings.jwt_owner_claim != "sub")
    if jwts is None and any(options):
        raise click.UsageError(
            "there are options for JWTs, but nothing that verifies them: give --jwks or "
            f"--jwt-secret-file, or set {JWT_SECRET_VARIABLE}"
        )
