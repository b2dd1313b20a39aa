"""Run with ``python manage.py test``."""

import io
import json
import uuid
from unittest import mock

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import TransactionTestCase
from rest_framework.authtoken.models import Token

from mobync.django.models import Diff

from .models import Project, Task
from .views import TaskSerializer


class SyncTest(TransactionTestCase):
    """A device, the API and the admin on the same tasks."""

    def setUp(self):
        self.user = User.objects.create_superuser("anna", password="secret")
        self.token = f"{Token.objects.create(user=self.user).key}"

    def sync(self, clock=0, diffs=()):
        headers = {"Authorization": f"Bearer {self.token}"}
        body = json.dumps({"logical_clock": clock, "diffs": list(diffs)})
        answer = self.client.post("/sync", body, "application/json", headers=headers)
        self.assertEqual(answer.status_code, 200, answer.content)
        return answer.json()

    def diff(self, kind, model, **data):
        return {
            "id": str(uuid.uuid4()),
            "owner": str(self.user.pk),
            "logical_clock": 0,
            "utc_timestamp": 1_700_000_000_000,
            "type": kind,
            "model": model,
            "json_data": json.dumps(data),
        }

    def news(self, clock):
        reply = self.sync(clock)
        return [(d["type"], json.loads(d["json_data"])) for d in reply["diffs"]]

    def test_a_device_makes_a_task_that_the_api_shows(self):
        project, task = str(uuid.uuid4()), str(uuid.uuid4())
        self.sync(
            diffs=[
                self.diff("create", "tasks", id=task, title="Milk", project_id=project),
                self.diff("create", "projects", id=project, name="Home"),
            ]
        )
        answer = self.client.get("/api/tasks/", headers={"Authorization": f"Token {self.token}"})
        self.assertEqual([(t["title"], t["project"]) for t in answer.json()], [("Milk", project)])
        self.assertEqual(Task.objects.get().owner, self.user)

    def test_what_the_api_and_the_admin_write_is_on_the_device(self):
        headers = {"Authorization": f"Token {self.token}"}
        made = self.client.post("/api/tasks/", {"title": "By the API"}, headers=headers).json()
        reply = self.sync()
        self.assertEqual(
            [json.loads(d["json_data"])["title"] for d in reply["diffs"]], ["By the API"]
        )

        self.client.force_login(self.user)
        form = {"owner": self.user.pk, "title": "By the admin", "project": ""}
        self.client.post(f"/admin/tasks/task/{made['id']}/change/", form)
        ((kind, data),) = self.news(reply["logical_clock"])
        self.assertEqual((kind, data["title"]), ("update", "By the admin"))

        clock = self.sync()["logical_clock"]
        self.client.post(f"/admin/tasks/task/{made['id']}/delete/", {"post": "yes"})
        self.assertEqual(self.news(clock), [("delete", {"id": made["id"]})])

    def test_the_admin_shows_the_log_and_changes_nothing(self):
        self.sync(diffs=[self.diff("create", "projects", id=str(uuid.uuid4()), name="Home")])
        self.client.force_login(self.user)
        for page in ("diff", "head", "device"):
            self.assertEqual(self.client.get(f"/admin/mobync/{page}/").status_code, 200)
            self.assertEqual(self.client.get(f"/admin/mobync/{page}/add/").status_code, 403)
        for page in (f"diff/{Diff.objects.get().pk}", f"head/{self.user.pk}"):
            shown = self.client.get(f"/admin/mobync/{page}/change/")
            self.assertEqual(shown.status_code, 200)
            self.assertNotContains(shown, 'type="submit" value="Save"')
            for action in ("change", "delete"):
                answer = self.client.post(f"/admin/mobync/{page}/{action}/", {"post": "yes"})
                self.assertEqual(answer.status_code, 403)

    def test_a_request_that_fails_leaves_neither_a_task_nor_an_edit(self):
        headers = {"Authorization": f"Token {self.token}"}
        self.client.raise_request_exception = False
        with mock.patch.object(TaskSerializer, "to_representation", side_effect=ValueError):
            answer = self.client.post("/api/tasks/", {"title": "Lost"}, headers=headers)
        self.assertEqual(answer.status_code, 500)
        self.assertEqual(Task.objects.count(), 0)
        self.assertEqual(self.news(0), [])

    def test_rows_that_were_there_before_are_adopted(self):
        Project.objects.bulk_create([Project(owner=self.user, name="Old")])
        call_command("mobync", "adopt", verbosity=0, stdout=io.StringIO())
        self.assertEqual([data["name"] for _, data in self.news(0)], ["Old"])

    async def test_it_serves_under_asgi(self):
        answer = await self.async_client.post(
            "/sync",
            json.dumps({"logical_clock": 0, "diffs": []}),
            "application/json",
            headers={"Authorization": f"Bearer {self.token}"},
        )
        self.assertEqual(answer.status_code, 200)
