"""The API for the web: a user's own tasks."""

from rest_framework import serializers, viewsets

from .models import Task


class TaskSerializer(serializers.ModelSerializer):
    """A task as JSON."""

    class Meta:  # noqa: D106
        model = Task
        fields = ("id", "project", "title", "is_done", "due")


class TaskViewSet(viewsets.ModelViewSet):
    """Tasks of who asks."""

    serializer_class = TaskSerializer

    def get_queryset(self):
        return Task.objects.filter(owner=self.request.user)

    def perform_create(self, serializer):
        serializer.save(owner=self.request.user)
