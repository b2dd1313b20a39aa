/* compaction.c - a log compacted piece by piece, from its end, and then folded from its beginning.
 *
 * A Compaction remembers what it has seen of the log, in its own arena. Each piece is read,
 * compacted and forgotten in another arena. What must be written is returned as plain lists: the
 * caller writes it, inside the transaction in which the piece was read.
 */
#include "binding.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD mb_arena *arena;
    mb_compaction *compaction; /* NULL after a failure that left it half done; so the next */
    mb_folding *folding;
    int64_t horizon;
    int64_t last_clock; /* of the log; -1: not known yet */
    bool keeps_clock;   /* the store does, when the log's last row has gone */
    bool expects;       /* there is something to fold */
} Compaction;

static PyObject *compaction_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"horizon", "keeps_times", "keeps_clock", NULL};
    long long horizon = 0;
    int keeps_times = 0, keeps_clock = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|Lpp:Compaction", names, &horizon, &keeps_times,
                                     &keeps_clock))
        return NULL;
    Compaction *self = (Compaction *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->horizon = horizon;
    self->last_clock = -1;
    self->keeps_clock = keeps_clock;
    if (take_arena(state_of_type(type), &self->arena) < 0 ||
        check_memory(mb_compaction_new(self->arena, &self->compaction)) < 0 ||
        check_memory(mb_folding_new(keeps_times, self->arena, &self->folding)) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void compaction_dealloc(Compaction *self)
{
    PyTypeObject *type = Py_TYPE(self);
    give_back_arena(state_of_type(type), self->arena);
    type->tp_free(self);
    Py_DECREF(type);
}

static long long bytes_of(const mb_diff *diff, mb_text json_data)
{
    enum { INTEGERS = 16 };
    const size_t text = diff->id.size + diff->owner.size + diff->model.size +
                        mb_type_name(diff->type).size + json_data.size + diff->field_times.size;
    return (long long)text + INTEGERS;
}

/* Appends (diff id, remaining json_data or None). */
static int append_change(PyObject *changes, const mb_diff *diff, const mb_compacted *fate)
{
    PyObject *left = fate->fate == MB_TRIMMED ? text_to_str(fate->json_data) : Py_NewRef(Py_None);
    PyObject *change = Py_BuildValue("(NN)", text_to_str(diff->id), left);
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

/* Announces the diffs that are left below the horizon and must be folded. */
static mb_status expect_folds(Compaction *self, const mb_diffs *piece, const mb_compacted *fates)
{
    for (size_t i = 0; i < piece->count; i++) {
        const mb_diff *diff = &piece->items[i];
        if (diff->logical_clock >= self->horizon || diff->type == MB_CREATE ||
            fates[i].fate == MB_DROPPED)
            continue;
        self->expects = true;
        if (mb_folding_expect(self->folding, diff) != MB_OK)
            return MB_NO_MEMORY;
    }
    return MB_OK;
}

/* The work on one piece: a new object, or NULL with an exception. */
typedef PyObject *(*on_piece)(Compaction *self, const mb_diffs *piece, mb_arena *arena);

/* Ends a compaction that ran out of memory in the middle.  Always returns NULL. */
static PyObject *give_up(Compaction *self)
{
    self->compaction = NULL;
    check_memory(MB_NO_MEMORY);
    return NULL;
}

static PyObject *compact_piece(Compaction *self, const mb_diffs *piece, mb_arena *arena)
{
    mb_compacted *fates;
    if (self->last_clock < 0)
        self->last_clock = highest_of(piece);
    if (mb_compact(self->compaction, piece, arena, &fates) != MB_OK ||
        expect_folds(self, piece, fates) != MB_OK)
        return give_up(self);
    return describe(piece, fates);
}

/* A create as (diff id, utc_timestamp, json_data, field_times or None). */
static PyObject *describe_create(const mb_folded *create)
{
    const mb_text times = create->field_times;
    return Py_BuildValue("(NLNN)", text_to_str(create->id), (long long)create->utc_timestamp,
                         text_to_str(create->json_data),
                         times.size == 0 ? Py_NewRef(Py_None) : text_to_str(times));
}

static PyObject *describe_fold(const mb_diffs *piece, const mb_fold_result *fold)
{
    long long bytes = 0;
    PyObject *creates = PyList_New((Py_ssize_t)fold->create_count);
    PyObject *dropped = PyList_New(0);
    for (size_t i = 0; creates != NULL && i < fold->create_count; i++) {
        const mb_folded *create = &fold->creates[i];
        bytes += (long long)(create->json_data.size + create->field_times.size) -
                 (long long)create->bytes_before;
        put_item(&creates, i, describe_create(create));
    }
    for (size_t i = 0; dropped != NULL && i < piece->count; i++) {
        if (!fold->dropped[i])
            continue;
        const mb_diff *diff = &piece->items[i];
        bytes -= bytes_of(diff, diff->json_data);
        PyObject *id = text_to_str(diff->id);
        if (id == NULL || PyList_Append(dropped, id) < 0)
            Py_CLEAR(dropped);
        Py_XDECREF(id);
    }
    return Py_BuildValue("(NNnLn)", creates, dropped, (Py_ssize_t)piece->count, bytes,
                         (Py_ssize_t)fold->unfolded);
}

static PyObject *fold_piece(Compaction *self, const mb_diffs *piece, mb_arena *arena)
{
    mb_fold_result fold;
    const int64_t holds_clock = self->keeps_clock ? -1 : self->last_clock;
    if (mb_fold(self->folding, piece, holds_clock, arena, &fold) != MB_OK)
        return give_up(self);
    return describe_fold(piece, &fold);
}

/* The arguments of a piece of the log: rows, the clock of the first, and the clock after the last. */
typedef struct {
    PyObject *rows;
    mb_text owner;
    long long first_clock, end_clock;
} piece_head;

static PyObject *read_piece(Compaction *self, const piece_head *head, on_piece work,
                            mb_arena *arena)
{
    diff_list list = {.json = NULL};
    const rows_reader reader = {state_of_type(Py_TYPE(self)), NULL, true, false, arena, &list};
    mb_diffs piece = {.count = 0};
    PyObject *result = NULL;
    if (read_rows(&reader, head->rows) == 0 &&
        check_window(&list, head->owner, head->first_clock, NULL, NULL) == 0 &&
        diffs_between(&list.diffs, head->first_clock, head->end_clock, arena, &piece) == 0) {
        if (self->compaction == NULL)
            raise_format(PyExc_RuntimeError, "a Compaction that ran out of memory is over");
        else
            result = work(self, &piece, arena);
    }
    diff_list_clear(&list);
    return result;
}

/* Reads the arguments, which are the same for piece() and fold(), and works on the piece. */
static PyObject *work_on_piece(Compaction *self, PyObject *args, const char *format, on_piece work)
{
    module_state *state = state_of_type(Py_TYPE(self));
    mb_arena *arena;
    piece_head head = {.rows = NULL};
    Py_ssize_t owner_size;
    if (!PyArg_ParseTuple(args, format, &head.rows, &head.owner.at, &owner_size, &head.first_clock,
                          &head.end_clock))
        return NULL;
    head.owner.size = (size_t)owner_size;
    if (take_arena(state, &arena) < 0)
        return NULL;
    PyObject *result = read_piece(self, &head, work, arena);
    give_back_arena(state, arena);
    return result;
}

PyDoc_STRVAR(piece_doc,
             "piece($self, rows, owner_id, first_clock, end_clock, /)\n--\n\n"
             "Compact the piece before the last one.\n\n"
             "Returns (changes, rows before, rows after, bytes before, bytes after); a change is\n"
             "(diff id, remaining json_data, or None if the row is dropped).");

static PyObject *compaction_piece(Compaction *self, PyObject *args)
{
    return work_on_piece(self, args, "Os#LL:piece", compact_piece);
}

PyDoc_STRVAR(
    fold_doc,
    "fold($self, rows, owner_id, first_clock, end_clock, /)\n--\n\n"
    "Fold the piece after the last one, when all pieces have been compacted.\n\n"
    "Returns (creates, ids of dropped rows, rows before, additional bytes, objects that are\n"
    "not folded); a create is (diff id, utc_timestamp, json_data, field_times or None).");

static PyObject *compaction_fold(Compaction *self, PyObject *args)
{
    return work_on_piece(self, args, "Os#LL:fold", fold_piece);
}

static PyMethodDef compaction_methods[] = {
    {"piece", (PyCFunction)compaction_piece, METH_VARARGS, piece_doc},
    {"fold", (PyCFunction)compaction_fold, METH_VARARGS, fold_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef compaction_members[] = {
    {"expects_folds", T_BOOL, offsetof(Compaction, expects), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(compaction_doc, "Compaction(horizon=0, keeps_times=False, keeps_clock=False)\n--\n\n"
                             "A log on its way through compaction.");

static PyType_Slot compaction_slots[] = {
    {Py_tp_doc, (void *)compaction_doc},
    {Py_tp_new, SLOT_FUNCTION(compaction_new)},
    {Py_tp_dealloc, SLOT_FUNCTION(compaction_dealloc)},
    {Py_tp_methods, compaction_methods},
    {Py_tp_members, compaction_members},
    {0, NULL},
};

/* Refers to no Python object except its type, so the collector has no cycle to find. */
PyType_Spec compaction_spec = {
    .name = "mobync._core.Compaction",
    .basicsize = sizeof(Compaction),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = compaction_slots,
};
