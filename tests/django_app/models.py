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
    mark = models.CharField(max_length=9, null=True)

    class Meta:
        app_label = "django_app"
        unique_together = [("owner", "mark")]


class Seat(models.Model):
    """The name of its second key begins as that of the first one."""

    id = models.CharField(max_length=40, primary_key=True)
    owner = models.CharField(max_length=40)
    row = models.CharField(max_length=9, null=True)
    row_seat = models.CharField(max_length=9, null=True)
    colour = models.CharField(max_length=9, null=True)
    guest = models.CharField(max_length=9, null=True)

    class Meta:
        app_label = "django_app"
        unique_together = [("owner", "row"), ("owner", "row_seat")]
        constraints = [models.UniqueConstraint(fields=["owner", "colour"], name="guest")]


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


class Shelf(models.Model):
    id = models.CharField(max_length=40, primary_key=True)

    class Meta:
        app_label = "django_app"


class Reader(models.Model):
    name = models.CharField(max_length=40, primary_key=True)

    class Meta:
        app_label = "django_app"


class Book(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    owner = models.ForeignKey(Reader, models.SET_NULL, null=True)
    title = models.CharField(max_length=40, default="")
    shelf = models.ForeignKey(Shelf, models.SET_NULL, null=True)
    sequel = models.ForeignKey("self", models.SET_NULL, null=True)

    class Meta:
        app_label = "django_app"


class LentBook(Book):
    class Meta:
        app_label = "django_app"
        proxy = True


class Atlas(Book):
    maps = models.IntegerField(default=0)

    class Meta:
        app_label = "django_app"


class Folio(Book):  # whose primary key is not that of the row that it extends
    number = models.AutoField(primary_key=True)
    extended = models.OneToOneField(Book, models.CASCADE, parent_link=True)

    class Meta:
        app_label = "django_app"
