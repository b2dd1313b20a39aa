"""Models of all kinds of fields."""

from __future__ import annotations

import uuid
from typing import Any

import django
from django.core.validators import MinValueValidator
from django.db import models

CONDITION = "condition" if django.VERSION >= (5, 1) else "check"


class Project(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    owner = models.CharField(max_length=40)
    name = models.CharField(max_length=20, unique=True)

    class Meta:
        app_label = "django_app"


class Task(models.Model):
    id = models.CharField(max_length=40, primary_key=True)
    owner = models.CharField(max_length=40)
    title = models.CharField(max_length=20, db_column="caption")
    state = models.CharField(
        max_length=5, choices=[("open", "Open"), ("done", "Done")], default="open"
    )
    project = models.ForeignKey(Project, models.CASCADE, null=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    due = models.DateTimeField(null=True)
    extra = models.JSONField(null=True)
    picture = models.BinaryField(null=True, editable=True)
    rank = models.PositiveSmallIntegerField(default=7, validators=[MinValueValidator(2)])
    day = models.DateField(null=True)
    is_hidden = models.BooleanField(default=False)
    changed = models.DateTimeField(auto_now=True)
    secret = models.CharField(max_length=9, default="x", editable=False)

    class Meta:
        app_label = "django_app"
        constraints = [
            models.UniqueConstraint(fields=["owner", "title"], name="one_title"),
            models.CheckConstraint(name="rank_check", **{CONDITION: models.Q(rank__lt=1000)}),
        ]


if django.VERSION >= (5, 0):  # GeneratedField and db_default came with it

    class Bill(models.Model):
        id = models.CharField(max_length=40, primary_key=True)
        owner = models.CharField(max_length=40)
        title = models.CharField(max_length=40, blank=True)
        net = models.IntegerField(null=True)
        priority = models.IntegerField(db_default=3)
        gross = models.GeneratedField(
            expression=models.F("net") + 20, output_field=models.IntegerField(), db_persist=True
        )
        made = models.DateTimeField(auto_now_add=True)
        changed = models.DateTimeField(auto_now=True)
        number = models.IntegerField(null=True, editable=False)
        hidden = models.CharField(max_length=9, default="h")

        class Meta:
            app_label = "django_app"

    class Letter(models.Model):
        id = models.CharField(max_length=40, primary_key=True)
        owner = models.CharField(max_length=40)
        text = models.CharField(max_length=40, null=True)

        class Meta:
            app_label = "django_app"

        def save(self, **how: Any) -> None:
            self.text = self.text and self.text.strip()
            super().save(**how)
