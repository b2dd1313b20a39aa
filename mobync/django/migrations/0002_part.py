from django.db import migrations, models

import mobync.django._columns


class Migration(migrations.Migration):
    dependencies = [("mobync", "0001_log")]

    operations = [
        migrations.CreateModel(
            name="Part",
            fields=[
                ("number", models.BigAutoField(primary_key=True, serialize=False)),
                ("owner", mobync.django._columns.ExactCharField(max_length=255)),
                ("device", mobync.django._columns.ExactCharField(max_length=255)),
                ("part", models.IntegerField()),
                ("piece", models.IntegerField()),
                ("diffs", mobync.django._columns.ExactTextField()),
            ],
            options={
                "db_table": "mobync_parts",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("owner", "device", "part", "piece"), name="mobync_parts_piece"
                    ),
                ],
            },
        ),
    ]
