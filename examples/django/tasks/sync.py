"""The sync of tasks and projects."""

from rest_framework.authtoken.models import Token

from mobync import Mobync
from mobync.django import DjangoSynchronizer, track

from .models import Project, Task

mobync = Mobync(DjangoSynchronizer({"projects": Project, "tasks": Task}))
track(mobync)  # edits of the admin and of the API


def owner_of(token, headers):
    """The user whose token of Django REST framework it is."""
    found = Token.objects.filter(key=token).first()
    return None if found is None else str(found.user_id)
