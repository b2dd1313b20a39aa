/* compaction.c - a log compacted piece by piece, from its end.
 *
 * A Compaction remembers what of the log it has seen, in an arena of its own; each piece is read,
 * judged and forgotten in another.  What must be written comes back as plain lists: the caller
 * writes it, inside the transaction in which the piece was read.
 */
#include "binding.h"

typedef struct {
    PyObject_HEAD mb_arena *arena;
    mb_compaction *compaction; /* NULL after a failure that left it half done */
} Compaction;

static PyObject *compaction_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Compaction", names))
        return NULL;
    Compaction *self = (Compaction *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (take_arena(PyType_GetModuleState(type), &self->arena) != MB_OK ||
        mb_compaction_new(self->arena, &self->compaction) != MB_OK) {
        PyErr_NoMemory();
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void compaction_dealloc(Compaction *self)
{
    PyTypeObject *type = Py_TYPE(self);
    give_back_arena(state_at_end(type), self->arena);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The diffs of a list that are earlier than a clock.  A store that was asked for just those may
 * not know such a filter. */
static mb_status earlier_than(const mb_diffs *all, int64_t end_clock, mb_arena *arena,
                              mb_diffs *earlier)
{
    mb_diffs found;
    if (mb_diffs_new(arena, all->count, &found) != MB_OK)
        return MB_NO_MEMORY;
    found.count = 0;
    for (size_t i = 0; i < all->count; i++)
        if (all->items[i].logical_clock < end_clock)
            found.items[found.count++] = all->items[i];
    *earlier = found;
    return MB_OK;
}

static long long bytes_of(const mb_diff *diff, mb_text json_data)
{
    enum { INTEGERS = 16 };
    const size_t text = diff->id.size + diff->owner.size + diff->model.size +
                        mb_type_name(diff->type).size + json_data.size;
    return (long long)text + INTEGERS;
}

/* Appends (diff id, json_data that is left or None). */
static int append_change(PyObject *changes, const mb_diff *diff, const mb_compacted *fate)
{
    PyObject *change =
        fate->fate == MB_TRIMMED
            ? Py_BuildValue("(s#s#)", diff->id.at, (Py_ssize_t)diff->id.size, fate->json_data.at,
                            (Py_ssize_t)fate->json_data.size)
            : Py_BuildValue("(s#O)", diff->id.at, (Py_ssize_t)diff->id.size, Py_None);
    const int result = change == NULL ? -1 : PyList_Append(changes, change);
    Py_XDECREF(change);
    return result;
}

static PyObject *describe(const mb_diffs *piece, const mb_compacted *fates)
{
    long long rows_after = 0, bytes_before = 0, bytes_after = 0;
    PyObject *changes = PyList_New(0);
    if (changes == NULL)
        return NULL;
    for (size_t i = 0; i < piece->count; i++) {
        const mb_diff *diff = &piece->items[i];
        bytes_before += bytes_of(diff, diff->json_data);
        if (fates[i].fate != MB_DROPPED) {
            rows_after++;
            bytes_after +=
                bytes_of(diff, fates[i].fate == MB_TRIMMED ? fates[i].json_data : diff->json_data);
        }
        if (fates[i].fate != MB_KEPT && append_change(changes, diff, &fates[i]) < 0) {
            Py_DECREF(changes);
            return NULL;
        }
    }
    return Py_BuildValue("(NnLLL)", changes, (Py_ssize_t)piece->count, rows_after, bytes_before,
                         bytes_after);
}

static PyObject *compact_rows(Compaction *self, PyObject *rows, mb_text owner, int64_t first_clock,
                              int64_t end_clock, mb_arena *arena)
{
    diff_list list = {.json = NULL};
    mb_diffs piece;
    mb_compacted *fates;
    PyObject *result = NULL;
    if (read_rows(PyType_GetModuleState(Py_TYPE(self)), rows, arena, &list) < 0 ||
        check_window(&list, owner, first_clock) < 0)
        goto done;
    if (self->compaction == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a Compaction that ran out of memory is over");
        goto done;
    }
    if (earlier_than(&list.diffs, end_clock, arena, &piece) != MB_OK) {
        PyErr_NoMemory();
        goto done;
    }
    if (mb_compact(self->compaction, &piece, arena, &fates) != MB_OK) {
        self->compaction = NULL;
        PyErr_NoMemory();
        goto done;
    }
    result = describe(&piece, fates);

done:
    diff_list_clear(&list);
    return result;
}

PyDoc_STRVAR(piece_doc,
             "piece($self, rows, owner_id, first_clock, end_clock, /)\n--\n\n"
             "Compact the piece before the last one.\n\n"
             "Returns (changes, rows before, rows after, bytes before, bytes after); a change is\n"
             "(diff id, json_data that is left, or None where the row goes).");

static PyObject *compaction_piece(Compaction *self, PyObject *args)
{
    PyObject *rows;
    const char *owner;
    Py_ssize_t owner_size;
    long long first_clock, end_clock;
    mb_arena *arena;
    if (!PyArg_ParseTuple(args, "Os#LL:piece", &rows, &owner, &owner_size, &first_clock,
                          &end_clock))
        return NULL;
    if (take_arena(PyType_GetModuleState(Py_TYPE(self)), &arena) != MB_OK)
        return PyErr_NoMemory();
    PyObject *result = compact_rows(self, rows, (mb_text){owner, (size_t)owner_size}, first_clock,
                                    end_clock, arena);
    give_back_arena(PyType_GetModuleState(Py_TYPE(self)), arena);
    return result;
}

static PyMethodDef compaction_methods[] = {
    {"piece", (PyCFunction)compaction_piece, METH_VARARGS, piece_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(compaction_doc, "Compaction()\n--\n\nA log on its way through compaction.");

static PyType_Slot compaction_slots[] = {
    {Py_tp_doc, (void *)compaction_doc},
    {Py_tp_new, compaction_new},
    {Py_tp_dealloc, compaction_dealloc},
    {Py_tp_methods, compaction_methods},
    {0, NULL},
};

/* Holds no Python object but its type, so there is no cycle for the collector to find. */
PyType_Spec compaction_spec = {
    .name = "mobync._core.Compaction",
    .basicsize = sizeof(Compaction),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = compaction_slots,
};
