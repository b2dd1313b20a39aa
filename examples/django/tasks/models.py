"""Tasks, and the projects that they are filed under."""

import uuid

from django.conf import settings
from django.db import models


class Project(models.Model):
    """What tasks are filed under."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Task(models.Model):
    """Something to do."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    project = models.ForeignKey(Project, models.CASCADE, null=True, blank=True)
    title = models.CharField(max_length=200)
    is_done = models.BooleanField(default=False)
    due = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.title
