"""The log, the owners' heads, their devices and parts of requests, as models.

An app may read them, but must write them only through mobync.  A row in the table of heads has the
highest clock of an owner's log.  Whoever has locked this row may sync for that owner.
"""

from __future__ import annotations

from django.db import models

from ._columns import ExactCharField, ExactTextField

KEY_LENGTH = 255


class Head(models.Model):
    """The highest clock of an owner's log."""

    owner = ExactCharField(max_length=KEY_LENGTH, primary_key=True)
    logical_clock: models.BigIntegerField[int, int] = models.BigIntegerField()
    state = ExactTextField(null=True)

    class Meta:
        app_label = "mobync"
        db_table = "mobync_heads"
        verbose_name = "owner"

    def __str__(self) -> str:
        return str(self.owner)


class Diff(models.Model):
    """An edit in an owner's log."""

    number: models.BigAutoField[int, int] = models.BigAutoField(primary_key=True)
    diff_id = ExactCharField(max_length=KEY_LENGTH, db_column="id")
    owner = ExactCharField(max_length=KEY_LENGTH)
    logical_clock: models.BigIntegerField[int, int] = models.BigIntegerField()
    utc_timestamp: models.BigIntegerField[int, int] = models.BigIntegerField()
    type = ExactCharField(max_length=6)
    model = ExactCharField(max_length=KEY_LENGTH)
    json_data = ExactTextField()
    field_times = ExactTextField(null=True)

    class Meta:
        app_label = "mobync"
        db_table = "mobync_diffs"
        constraints = [
            models.UniqueConstraint(fields=["owner", "diff_id"], name="mobync_diffs_owner_id"),
            # Unique, so that two syncs cannot write the same clock, even if a lock was lost.
            models.UniqueConstraint(
                fields=["owner", "logical_clock"], name="mobync_diffs_owner_logical_clock"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.logical_clock} {self.type} {self.model}"


class Device(models.Model):
    """What is stored about a device that names itself."""

    number: models.BigAutoField[int, int] = models.BigAutoField(primary_key=True)
    owner = ExactCharField(max_length=KEY_LENGTH)
    device = ExactCharField(max_length=KEY_LENGTH)
    state = ExactTextField()

    class Meta:
        app_label = "mobync"
        db_table = "mobync_devices"
        constraints = [
            models.UniqueConstraint(fields=["owner", "device"], name="mobync_devices_owner_device")
        ]

    def __str__(self) -> str:
        return f"{self.owner} {self.device}"


class Part(models.Model):
    """A piece of a part of a request whose last part has not arrived."""

    number: models.BigAutoField[int, int] = models.BigAutoField(primary_key=True)
    owner = ExactCharField(max_length=KEY_LENGTH)
    device = ExactCharField(max_length=KEY_LENGTH)
    part: models.IntegerField[int, int] = models.IntegerField()
    piece: models.IntegerField[int, int] = models.IntegerField()
    diffs = ExactTextField()

    class Meta:
        app_label = "mobync"
        db_table = "mobync_parts"
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "device", "part", "piece"], name="mobync_parts_piece"
            )
        ]

    def __str__(self) -> str:
        return f"{self.owner} {self.device} {self.part}"
