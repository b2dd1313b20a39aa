/* exchange.c - one device's request meeting the server's window.
 *
 * An Exchange is what one apply carries through the order that docs/protocol.md gives it:
 *
 *     Exchange(diffs)     the form of every diff is checked; Exchange.from_json(body) likewise
 *     meet(rows)          the window is known, and with it what of the request is new
 *     select()            where only a part is wanted: a page, or the objects of the request
 *     news()              what the app's rules must be asked: ask(); leave_out() what they refuse
 *     merge()             after which news() gives only what is written
 *     operations()        what goes upstream: to the models and to the log
 *     acknowledge()       the caller's dicts get their new clocks, once all of that is written
 *     downstream()        the reply; or reply_json()
 *
 * It copies what it needs of the caller's objects when it is made, so nothing that runs between
 * two steps can change what the merge sees.  Of the app's it calls the rules, in ask().  After meet() a
 * transaction that failed may begin again with meet().
 */
#include "binding.h"

#include "../core/text.h"

typedef enum { CHECKED, MET, MERGED } stage;

typedef struct {
    PyObject_HEAD mb_arena *arena;
    stage stage;
    diff_list request;
    diff_list window;
    mb_merge_result result;
    PyObject *callers; /* a tuple of the caller's dicts; NULL where the request came as JSON */
    PyObject **sent;   /* copies of them, as the device sent them; NULL where not yet copied */
    Py_ssize_t asking; /* which diff a rule was asked of last */
    PyObject *logical_clock; /* the text in the JSON, or NULL; so the next two */
    PyObject *limit;
    PyObject *cursor;
} Exchange;

static module_state *state_of(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

static int require(const Exchange *self, stage wanted)
{
    static const char *const reached_by[] = {"Exchange()", "meet()", "merge()"};
    if (self->stage == wanted)
        return 0;
    PyErr_Format(PyExc_RuntimeError, "this step follows %s, not %s", reached_by[wanted],
                 reached_by[self->stage]);
    return -1;
}

/* ---- made from a request ------------------------------------------------------------------- */

static int check_rules(module_state *state, const diff_list *request, Py_ssize_t index,
                       const mb_request_rules *rules)
{
    mb_error error = {.reason = NULL};
    const mb_status status = mb_diff_check_rules(&request->diffs.items[index], rules, &error);
    if (status != MB_OK)
        return raise_status(state, status, index, request->objects[index].id, &error);
    return 0;
}

static int read_request_diff(module_state *state, Exchange *self, Py_ssize_t index,
                             const mb_request_rules *rules)
{
    PyObject *caller = PyTuple_GET_ITEM(self->callers, index);
    if (!PyDict_Check(caller))
        return raise_invalid(state, index, NULL, "a diff must be a dict, not %.100s",
                             Py_TYPE(caller)->tp_name);
    PyObject *copy = PyDict_Copy(caller);
    if (copy == NULL)
        return -1;
    self->sent[index] = copy;
    if (read_diff(state, copy, index, self->arena, &self->request) < 0 ||
        check_keys(state, copy, index, self->request.objects[index].id) < 0)
        return -1;
    return check_rules(state, &self->request, index, rules);
}

static int read_request(module_state *state, Exchange *self, PyObject *diffs,
                        const mb_request_rules *rules)
{
    if (!PyList_Check(diffs) && !PyTuple_Check(diffs))
        return raise_invalid(state, -1, NULL, "diffs must be a list, not %.100s",
                             Py_TYPE(diffs)->tp_name);
    self->callers = snapshot(diffs);
    if (self->callers == NULL)
        return -1;
    const Py_ssize_t count = PyTuple_GET_SIZE(self->callers);
    if (diff_list_new(&self->request, count, self->arena) < 0)
        return -1;
    self->sent = PyMem_Calloc((size_t)count, sizeof *self->sent);
    if (self->sent == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if ((size_t)i == rules->diffs)
            return raise_invalid(state, -1, NULL,
                                 "diffs are too many for one request: %zu are allowed",
                                 rules->diffs);
        if (read_request_diff(state, self, i, rules) < 0)
            return -1;
    }
    return 0;
}

static int read_member(PyObject **place, mb_text text)
{
    if (text.at == NULL)
        return 0;
    *place = PyUnicode_DecodeUTF8(text.at, (Py_ssize_t)text.size, NULL);
    return *place == NULL ? -1 : 0;
}

static int read_json_request(module_state *state, Exchange *self, PyObject *body,
                             const mb_request_rules *rules)
{
    mb_text text = {NULL, 0};
    mb_request request;
    size_t index;
    mb_error error;
    self->request.json = Py_NewRef(body);
    if (borrow_json(state, body, &text) < 0)
        return -1;
    const mb_status status = mb_request_read(text, rules, self->arena, &request, &index, &error);
    if (status != MB_OK)
        return raise_read_status(state, status, index, &error);

    self->request.objects = PyMem_Calloc(request.diffs.count, sizeof *self->request.objects);
    if (self->request.objects == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->request.diffs = request.diffs;
    if (read_member(&self->logical_clock, request.logical_clock) < 0 ||
        read_member(&self->limit, request.limit) < 0 ||
        read_member(&self->cursor, request.cursor) < 0)
        return -1;
    return 0;
}

/* Reads the arguments that both ways to make an Exchange share. */
static int read_arguments(PyObject *args, PyObject *kwargs, const char *first, PyObject **source,
                          mb_request_rules *rules)
{
    char *names[] = {(char *)first,         "diffs_model_name", "max_diffs",
                     "max_json_data_bytes", "max_depth",        NULL};
    mb_text log_model = {NULL, 0};
    Py_ssize_t name_size = 0, diffs = PY_SSIZE_T_MAX, bytes = PY_SSIZE_T_MAX,
               depth = PY_SSIZE_T_MAX;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|z#nnn", names, source, &log_model.at,
                                     &name_size, &diffs, &bytes, &depth))
        return -1;
    log_model.size = (size_t)name_size;
    *rules =
        (mb_request_rules){reserved_keys, log_model, (size_t)diffs, (size_t)bytes, (size_t)depth};
    return 0;
}

typedef int (*read_source)(module_state *state, Exchange *self, PyObject *source,
                           const mb_request_rules *rules);

static PyObject *make_exchange(PyTypeObject *type, PyObject *source, const mb_request_rules *rules,
                               read_source read)
{
    Exchange *self = (Exchange *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    module_state *state = state_of((PyObject *)self);
    if (take_arena(state, &self->arena) != MB_OK) {
        PyErr_NoMemory();
        Py_CLEAR(self);
    } else if (read(state, self, source, rules) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyObject *exchange_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *diffs;
    mb_request_rules rules;
    if (read_arguments(args, kwargs, "diffs", &diffs, &rules) < 0)
        return NULL;
    return make_exchange(type, diffs, &rules, read_request);
}

PyDoc_STRVAR(from_json_doc,
             "from_json($type, body, diffs_model_name=None, max_diffs=sys.maxsize,\n"
             "          max_json_data_bytes=sys.maxsize, max_depth=sys.maxsize)\n--\n\n"
             "Make an Exchange of the body of a sync request, as str or bytes.");

static PyObject *exchange_from_json(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *body;
    mb_request_rules rules;
    if (read_arguments(args, kwargs, "body", &body, &rules) < 0)
        return NULL;
    return make_exchange(type, body, &rules, read_json_request);
}

static int exchange_traverse(Exchange *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->callers);
    for (size_t i = 0; self->sent != NULL && i < self->request.diffs.count; i++)
        Py_VISIT(self->sent[i]);
    return 0;
}

static int exchange_clear(Exchange *self)
{
    Py_CLEAR(self->callers);
    Py_CLEAR(self->logical_clock);
    Py_CLEAR(self->limit);
    Py_CLEAR(self->cursor);
    for (size_t i = 0; self->sent != NULL && i < self->request.diffs.count; i++)
        Py_CLEAR(self->sent[i]);
    return 0;
}

static void exchange_dealloc(Exchange *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    exchange_clear(self);
    PyMem_Free(self->sent);
    diff_list_clear(&self->request);
    diff_list_clear(&self->window);
    give_back_arena(state_at_end(type), self->arena);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- meets the window ---------------------------------------------------------------------- */

PyDoc_STRVAR(meet_doc, "meet($self, rows, owner_id=None, first_clock=0, /)\n--\n\n"
                       "Take the owner's diffs from first_clock on; return the highest clock.");

static PyObject *exchange_meet(Exchange *self, PyObject *args)
{
    PyObject *rows;
    const char *owner = NULL;
    Py_ssize_t owner_size = 0;
    long long first_clock = 0;
    if (!PyArg_ParseTuple(args, "O|z#L:meet", &rows, &owner, &owner_size, &first_clock))
        return NULL;

    /* Reading the rows can run any code: only a whole window is ever put into the Exchange. */
    diff_list window = {.json = NULL};
    if (read_rows(state_of((PyObject *)self), rows, self->arena, &window) < 0 ||
        (owner != NULL &&
         check_window(&window, (mb_text){owner, (size_t)owner_size}, first_clock) < 0)) {
        diff_list_clear(&window);
        return NULL;
    }
    diff_list before = self->window;
    self->window = window;
    self->stage = CHECKED;
    diff_list_clear(&before);
    if (mb_recognize(self->arena, &self->window.diffs, &self->request.diffs) != MB_OK)
        return PyErr_NoMemory();
    self->stage = MET;

    if (window.diffs.count == 0)
        Py_RETURN_NONE;
    int64_t highest = 0;
    for (size_t i = 0; i < window.diffs.count; i++)
        if (window.diffs.items[i].logical_clock > highest)
            highest = window.diffs.items[i].logical_clock;
    return PyLong_FromLongLong(highest);
}

PyDoc_STRVAR(news_doc,
             "news($self, whole_objects=False, /)\n--\n\n"
             "The index of each diff that the window lacks; after merge() only of those of which\n"
             "something goes upstream, or of whose object.");

static PyObject *exchange_news(Exchange *self, PyObject *args)
{
    int whole_objects = 0;
    if (!PyArg_ParseTuple(args, "|p:news", &whole_objects) ||
        (self->stage != MERGED && require(self, MET) < 0))
        return NULL;
    bool *written = self->stage == MERGED ? self->result.written : NULL;
    if (written != NULL && whole_objects &&
        mb_find_of_written_objects(&self->request.diffs, written, self->arena, &written) != MB_OK)
        return PyErr_NoMemory();
    PyObject *news = PyList_New(0);
    for (size_t i = 0; news != NULL && i < self->request.diffs.count; i++) {
        const mb_diff *diff = &self->request.diffs.items[i];
        if (diff->known || diff->repeated || (written != NULL && !written[i]))
            continue;
        PyObject *index = PyLong_FromSize_t(i);
        if (index == NULL || PyList_Append(news, index) < 0)
            Py_CLEAR(news);
        Py_XDECREF(index);
    }
    return news;
}

static mb_diff *request_diff(Exchange *self, PyObject *index)
{
    const Py_ssize_t i = PyLong_AsSsize_t(index);
    if (i == -1 && PyErr_Occurred())
        return NULL;
    if (i < 0 || (size_t)i >= self->request.diffs.count) {
        PyErr_SetString(PyExc_IndexError, "the request has no such diff");
        return NULL;
    }
    return &self->request.diffs.items[i];
}

/* Reads a diff with Python's own reader.  JSON may hold what that has no room for. */
static PyObject *load_diff(Exchange *self, size_t index)
{
    module_state *state = state_of((PyObject *)self);
    const mb_text text = self->request.diffs.items[index].text;
    PyObject *json = PyUnicode_DecodeUTF8(text.at, (Py_ssize_t)text.size, NULL);
    if (json == NULL)
        return NULL;
    PyObject *dict = PyObject_CallOneArg(state->json_loads, json);
    Py_DECREF(json);
    if (dict == NULL && (PyErr_ExceptionMatches(PyExc_ValueError) ||
                         PyErr_ExceptionMatches(PyExc_RecursionError))) {
        PyErr_Clear();
        PyObject *id = diff_id(&self->request, index);
        if (id != NULL)
            raise_invalid(state, (Py_ssize_t)index, id,
                          "a number too long or nesting too deep for the rules to be asked");
        Py_XDECREF(id);
    }
    return dict;
}

/* A diff as the device sent it: a new reference to a dict. */
static PyObject *sent_diff(Exchange *self, size_t index)
{
    if (self->sent != NULL)
        return Py_NewRef(self->sent[index]);
    if (self->request.diffs.items[index].is_whole)
        return whole_diff_to_dict(state_of((PyObject *)self), &self->request, index);
    return load_diff(self, index);
}

PyDoc_STRVAR(sent_doc, "sent($self, index, /)\n--\n\n"
                       "A diff of the request as the device sent it.");

static PyObject *exchange_sent(Exchange *self, PyObject *index)
{
    const mb_diff *diff = request_diff(self, index);
    return diff == NULL ? NULL : sent_diff(self, (size_t)(diff - self->request.diffs.items));
}

/* Calls rule(owner_id, **diff); for a whole diff from JSON without a dict in between. */
static PyObject *call_rule(Exchange *self, PyObject *rule, PyObject *owner_id, size_t index)
{
    module_state *state = state_of((PyObject *)self);
    PyObject *answer;
    if (self->sent == NULL && self->request.diffs.items[index].is_whole) {
        PyObject *arguments[2 + FIELDS] = {NULL, owner_id};
        PyObject **values = &arguments[2];
        if (whole_diff_values(state, &self->request, index, values) < 0)
            return NULL;
        answer = PyObject_Vectorcall(rule, &arguments[1], 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                     state->fields);
        for (int i = 0; i < FIELDS; i++)
            Py_DECREF(values[i]);
        return answer;
    }
    PyObject *sent = sent_diff(self, index);
    if (sent == NULL)
        return NULL;
    answer = PyObject_VectorcallDict(rule, &owner_id, 1, sent);
    Py_DECREF(sent);
    return answer;
}

/* Asks the rule for its type of one diff.  Returns 1 for yes, 0 for no, -1 with an exception. */
static int ask_of(Exchange *self, PyObject *rules, PyObject *owner_id, PyObject *index)
{
    const mb_diff *diff = request_diff(self, index);
    if (diff == NULL)
        return -1;
    self->asking = diff - self->request.diffs.items;
    PyObject *answer =
        call_rule(self, PyTuple_GET_ITEM(rules, diff->type), owner_id, (size_t)self->asking);
    if (answer == NULL)
        return -1;
    const int yes = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return yes;
}

PyDoc_STRVAR(ask_doc,
             "ask($self, rules, owner_id, indexes, /)\n--\n\n"
             "Ask the rules, one for each type, of diffs until they refuse one; return its index.");

static PyObject *exchange_ask(Exchange *self, PyObject *args)
{
    PyObject *rules, *owner_id, *indexes;
    if (!PyArg_ParseTuple(args, "O!UO:ask", &PyTuple_Type, &rules, &owner_id, &indexes))
        return NULL;
    if (PyTuple_GET_SIZE(rules) != 3 || !PyIter_Check(indexes)) {
        PyErr_SetString(PyExc_TypeError, "ask() takes three rules and an iterator");
        return NULL;
    }
    int yes = 1;
    PyObject *index;
    while ((index = PyIter_Next(indexes)) != NULL) {
        yes = ask_of(self, rules, owner_id, index);
        if (yes == 0)
            return index;
        Py_DECREF(index);
        if (yes < 0)
            return NULL;
    }
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(leave_out_dead_doc,
             "leave_out_dead($self, /)\n--\n\n"
             "Of a window from clock 0, leave out what a device cannot hold that never synced.");

static PyObject *exchange_leave_out_dead(Exchange *self, PyObject *Py_UNUSED(ignored))
{
    if (require(self, MET) < 0)
        return NULL;
    if (mb_leave_out_dead(self->arena, &self->window.diffs, &self->request.diffs) != MB_OK)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(leave_out_doc, "leave_out($self, index, /)\n--\n\n"
                            "Merge as if the request had not this diff.");

static PyObject *exchange_leave_out(Exchange *self, PyObject *index)
{
    mb_diff *diff = request_diff(self, index);
    if (diff == NULL || (self->stage != MERGED && require(self, MET) < 0))
        return NULL;
    diff->left_out = true;
    self->stage = MET;
    Py_RETURN_NONE;
}

static PyObject *field_names(const mb_diff *diff)
{
    PyObject *names = PyList_New(0);
    for (size_t i = 0; names != NULL && i < diff->member_count; i++) {
        const mb_text text = diff->members[i].name;
        if (mb_text_equal(text, (mb_text){"id", 2}))
            continue;
        PyObject *name = PyUnicode_DecodeUTF8(text.at, (Py_ssize_t)text.size, NULL);
        if (name == NULL || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

PyDoc_STRVAR(diff_doc,
             "diff($self, index, /)\n--\n\n"
             "(id, type, model, object id, names of the fields) of a diff of the request.");

static PyObject *exchange_diff(Exchange *self, PyObject *index)
{
    const mb_diff *diff = request_diff(self, index);
    if (diff == NULL)
        return NULL;
    PyObject *names = field_names(diff);
    if (names == NULL)
        return NULL;
    return Py_BuildValue("(s#Os#s#N)", diff->id.at, (Py_ssize_t)diff->id.size,
                         state_of((PyObject *)self)->type_names[diff->type], diff->model.at,
                         (Py_ssize_t)diff->model.size, diff->object_id.at,
                         (Py_ssize_t)diff->object_id.size, names);
}

PyDoc_STRVAR(page_end_doc, "page_end($self, limit, /)\n--\n\n"
                           "The clock after a page of the window; None if all fits on it.");

static PyObject *exchange_page_end(Exchange *self, PyObject *limit)
{
    const Py_ssize_t count = PyLong_AsSsize_t(limit);
    if ((count == -1 && PyErr_Occurred()) || require(self, MET) < 0)
        return NULL;
    if (count < 1) {
        PyErr_SetString(PyExc_ValueError, "a page has room for one diff at least");
        return NULL;
    }
    int64_t end;
    if (mb_page_end(self->arena, &self->window.diffs, (size_t)count, &end) != MB_OK)
        return PyErr_NoMemory();
    if (end < 0)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(end);
}

PyDoc_STRVAR(select_doc,
             "select($self, request, touched, untouched_from, untouched_before, /)\n--\n\n"
             "Merge only these: the request's diffs, the window's of the objects that it touches,\n"
             "and the window's of other objects within a range of clocks.");

static PyObject *exchange_select(Exchange *self, PyObject *args)
{
    int request, touched;
    long long untouched_from, untouched_before;
    if (!PyArg_ParseTuple(args, "ppLL:select", &request, &touched, &untouched_from,
                          &untouched_before) ||
        require(self, MET) < 0)
        return NULL;
    const mb_selection selection = {request != 0, touched != 0, untouched_from, untouched_before};
    if (mb_select(self->arena, &self->window.diffs, &self->request.diffs, &selection) != MB_OK)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* ---- merged -------------------------------------------------------------------------------- */

PyDoc_STRVAR(merge_doc, "merge($self, now_ms=None, max_skew_ms=0, /)\n--\n\n"
                        "Merge; with now_ms, timestamps too far ahead of it count as now.");

static PyObject *exchange_merge(Exchange *self, PyObject *args)
{
    PyObject *now = Py_None;
    long long max_skew_ms = 0;
    if (!PyArg_ParseTuple(args, "|OL:merge", &now, &max_skew_ms) || require(self, MET) < 0)
        return NULL;
    if (now != Py_None) {
        const long long now_ms = PyLong_AsLongLong(now);
        if (now_ms == -1 && PyErr_Occurred())
            return NULL;
        if (now_ms < 0 || now_ms > MB_MAX_INTEGER || max_skew_ms < 0 ||
            max_skew_ms > MB_MAX_INTEGER) {
            PyErr_SetString(PyExc_ValueError, "now_ms must be of 0 to 2^53 - 1, the skew >= 0");
            return NULL;
        }
        mb_diffs_limit_skew(&self->request.diffs, now_ms, max_skew_ms);
    }
    if (mb_merge(self->arena, &self->window.diffs, &self->request.diffs, &self->result) != MB_OK)
        return PyErr_NoMemory();
    self->stage = MERGED;
    Py_RETURN_NONE;
}

static PyObject *outcomes_to_list(Exchange *self, const mb_outcomes *outcomes, diff_list *source)
{
    if (require(self, MERGED) < 0)
        return NULL;
    module_state *state = state_of((PyObject *)self);
    PyObject *list = PyList_New((Py_ssize_t)outcomes->count);
    for (size_t i = 0; list != NULL && i < outcomes->count; i++) {
        const mb_outcome *outcome = &outcomes->items[i];
        PyObject *dict = outcome_to_dict(state, outcome, source,
                                         source->diffs.items[outcome->source].logical_clock);
        if (dict == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, dict);
    }
    return list;
}

PyDoc_STRVAR(upstream_doc, "upstream($self, /)\n--\n\n"
                           "The merged diffs of the request, as dicts.");

static PyObject *exchange_upstream(Exchange *self, PyObject *Py_UNUSED(ignored))
{
    return outcomes_to_list(self, &self->result.upstream, &self->request);
}

PyDoc_STRVAR(downstream_doc, "downstream($self, /)\n--\n\n"
                             "What the device must apply, as dicts in log order.");

static PyObject *exchange_downstream(Exchange *self, PyObject *Py_UNUSED(ignored))
{
    return outcomes_to_list(self, &self->result.downstream, &self->window);
}

PyDoc_STRVAR(reply_json_doc, "reply_json($self, logical_clock, /)\n--\n\n"
                             "The reply to the device, as JSON in bytes.");

static PyObject *exchange_reply_json(Exchange *self, PyObject *clock)
{
    const long long logical_clock = PyLong_AsLongLong(clock);
    if ((logical_clock == -1 && PyErr_Occurred()) || require(self, MERGED) < 0)
        return NULL;
    if (logical_clock < 0) {
        PyErr_SetString(PyExc_ValueError, "a logical clock is 0 or more");
        return NULL;
    }
    const mb_diffs *window = &self->window.diffs;
    const mb_outcomes *downstream = &self->result.downstream;
    const size_t most = mb_reply_most_bytes(window, downstream);
    if (most > PY_SSIZE_T_MAX)
        return PyErr_NoMemory();
    PyObject *reply = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)most);
    if (reply != NULL) {
        const size_t size =
            mb_reply_put(window, downstream, logical_clock, PyBytes_AS_STRING(reply));
        _PyBytes_Resize(&reply, (Py_ssize_t)size);
    }
    return reply;
}

/* ---- written ------------------------------------------------------------------------------- */

/* What is written, a list for each column, filled row by row. */
typedef struct {
    PyObject *types;
    PyObject *models;
    PyObject *json_data;
    PyObject *log_rows;
    char *row; /* the log's row that is being printed */
    size_t row_room;
} operation_columns;

static PyObject *print_log_row(Exchange *self, const mb_outcome *outcome, mb_text owner,
                               int64_t clock, operation_columns *columns)
{
    const mb_diff *diff = &self->request.diffs.items[outcome->source];
    const size_t most = mb_log_row_most_bytes(diff, outcome, owner);
    if (most > columns->row_room) {
        PyMem_Free(columns->row);
        columns->row_room = 0;
        columns->row = PyMem_Malloc(most);
        if (columns->row == NULL)
            return PyErr_NoMemory();
        columns->row_room = most;
    }
    const size_t size = mb_log_row_put(diff, outcome, owner, clock, columns->row);
    return PyUnicode_DecodeUTF8(columns->row, (Py_ssize_t)size, NULL);
}

static int fill_operation(Exchange *self, size_t place, mb_text owner, int64_t clock,
                          operation_columns *columns)
{
    const mb_outcome *outcome = &self->result.upstream.items[place];
    const Py_ssize_t at = (Py_ssize_t)place;
    PyObject *type = state_of((PyObject *)self)->type_names[outcome->type];
    PyObject *model = diff_model(&self->request, outcome->source);
    PyObject *json_data = outcome_json_data(outcome, &self->request);
    PyObject *log_row = print_log_row(self, outcome, owner, clock, columns);
    PyList_SET_ITEM(columns->types, at, Py_NewRef(type));
    PyList_SET_ITEM(columns->models, at, model);
    PyList_SET_ITEM(columns->json_data, at, json_data);
    PyList_SET_ITEM(columns->log_rows, at, log_row);
    return model == NULL || json_data == NULL || log_row == NULL ? -1 : 0;
}

PyDoc_STRVAR(operations_doc,
             "operations($self, owner_id, first_clock, /)\n--\n\n"
             "(types, models, json_data, log rows as JSON) of the diffs that go upstream, a list\n"
             "each.");

static PyObject *exchange_operations(Exchange *self, PyObject *args)
{
    const char *owner;
    Py_ssize_t owner_size;
    long long first_clock;
    if (!PyArg_ParseTuple(args, "s#L:operations", &owner, &owner_size, &first_clock) ||
        require(self, MERGED) < 0)
        return NULL;
    const size_t count = self->result.upstream.count;
    if (first_clock < 0 || first_clock > MB_MAX_INTEGER - (int64_t)count) {
        PyErr_SetString(PyExc_OverflowError, "the owner's logical clock is used up");
        return NULL;
    }
    const Py_ssize_t size = (Py_ssize_t)count;
    operation_columns columns = {.types = PyList_New(size),
                                 .models = PyList_New(size),
                                 .json_data = PyList_New(size),
                                 .log_rows = PyList_New(size)};
    PyObject *operations = NULL;
    if (columns.types == NULL || columns.models == NULL || columns.json_data == NULL ||
        columns.log_rows == NULL)
        goto done;
    for (size_t i = 0; i < count; i++)
        if (fill_operation(self, i, (mb_text){owner, (size_t)owner_size}, first_clock + (int64_t)i,
                           &columns) < 0)
            goto done;
    operations =
        PyTuple_Pack(4, columns.types, columns.models, columns.json_data, columns.log_rows);
done:
    Py_XDECREF(columns.types);
    Py_XDECREF(columns.models);
    Py_XDECREF(columns.json_data);
    Py_XDECREF(columns.log_rows);
    PyMem_Free(columns.row);
    return operations;
}

PyDoc_STRVAR(upstream_index_doc, "upstream_index($self, place, /)\n--\n\n"
                                 "Which diff of the request an operation comes from.");

static PyObject *exchange_upstream_index(Exchange *self, PyObject *place)
{
    const Py_ssize_t at = PyLong_AsSsize_t(place);
    if ((at == -1 && PyErr_Occurred()) || require(self, MERGED) < 0)
        return NULL;
    if (at < 0 || (size_t)at >= self->result.upstream.count) {
        PyErr_SetString(PyExc_IndexError, "there is no such operation");
        return NULL;
    }
    return PyLong_FromSize_t(self->result.upstream.items[at].source);
}

PyDoc_STRVAR(acknowledge_doc, "acknowledge($self, first_clock, /)\n--\n\n"
                              "Set the new clocks in the caller's dicts, if it gave dicts.");

static PyObject *exchange_acknowledge(Exchange *self, PyObject *first)
{
    const long long first_clock = PyLong_AsLongLong(first);
    if ((first_clock == -1 && PyErr_Occurred()) || require(self, MERGED) < 0)
        return NULL;
    if (self->callers == NULL)
        Py_RETURN_NONE;
    module_state *state = state_of((PyObject *)self);
    for (size_t i = 0; i < self->result.upstream.count; i++) {
        const size_t source = self->result.upstream.items[i].source;
        PyObject *clock = PyLong_FromLongLong(first_clock + (long long)i);
        if (clock == NULL)
            return NULL;
        PyObject *caller = PyTuple_GET_ITEM(self->callers, (Py_ssize_t)source);
        const int result = PyDict_SetItem(caller, state->logical_clock, clock);
        Py_DECREF(clock);
        if (result < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- the type ------------------------------------------------------------------------------ */

static Py_ssize_t exchange_length(Exchange *self)
{
    return (Py_ssize_t)self->request.diffs.count;
}

PyDoc_STRVAR(downstream_count_doc, "How many diffs the device must apply.");

static PyObject *exchange_downstream_count(Exchange *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(self->result.downstream.count);
}

PyDoc_STRVAR(asking_doc, "The index of the diff that a rule was asked of last.");

static PyObject *exchange_asking(Exchange *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(self->asking);
}

PyDoc_STRVAR(is_retry_doc, "Whether the window has diffs of the request.");

static PyObject *exchange_is_retry(Exchange *self, void *Py_UNUSED(closure))
{
    for (size_t i = 0; i < self->request.diffs.count; i++)
        if (self->request.diffs.items[i].known)
            Py_RETURN_TRUE;
    Py_RETURN_FALSE;
}

PyDoc_STRVAR(conflicts_doc, "How often the merge had to decide between two sides.");

static PyObject *exchange_conflicts(Exchange *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(self->result.conflicts);
}

PyDoc_STRVAR(fingerprint_doc, "A number made of the ids of the request's diffs.");

static PyObject *exchange_fingerprint(Exchange *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(mb_request_fingerprint(&self->request.diffs));
}

static PyObject *new_ref_or_none(PyObject *object)
{
    return Py_NewRef(object != NULL ? object : Py_None);
}

PyDoc_STRVAR(logical_clock_doc, "The device's clock as it stood in the JSON, else None.");

static PyObject *exchange_logical_clock(Exchange *self, void *Py_UNUSED(closure))
{
    return new_ref_or_none(self->logical_clock);
}

PyDoc_STRVAR(limit_doc, "The page's size as it stood in the JSON, else None.");

static PyObject *exchange_limit(Exchange *self, void *Py_UNUSED(closure))
{
    return new_ref_or_none(self->limit);
}

PyDoc_STRVAR(cursor_doc, "The page's cursor as it stood in the JSON, else None.");

static PyObject *exchange_cursor(Exchange *self, void *Py_UNUSED(closure))
{
    return new_ref_or_none(self->cursor);
}

static PyGetSetDef exchange_attributes[] = {
    {"downstream_count", (getter)exchange_downstream_count, NULL, downstream_count_doc, NULL},
    {"asking", (getter)exchange_asking, NULL, asking_doc, NULL},
    {"is_retry", (getter)exchange_is_retry, NULL, is_retry_doc, NULL},
    {"conflicts", (getter)exchange_conflicts, NULL, conflicts_doc, NULL},
    {"fingerprint", (getter)exchange_fingerprint, NULL, fingerprint_doc, NULL},
    {"logical_clock", (getter)exchange_logical_clock, NULL, logical_clock_doc, NULL},
    {"limit", (getter)exchange_limit, NULL, limit_doc, NULL},
    {"cursor", (getter)exchange_cursor, NULL, cursor_doc, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef exchange_methods[] = {
    {"from_json", (PyCFunction)(void (*)(void))exchange_from_json,
     METH_CLASS | METH_VARARGS | METH_KEYWORDS, from_json_doc},
    {"reply_json", (PyCFunction)exchange_reply_json, METH_O, reply_json_doc},
    {"meet", (PyCFunction)exchange_meet, METH_VARARGS, meet_doc},
    {"news", (PyCFunction)exchange_news, METH_VARARGS, news_doc},
    {"sent", (PyCFunction)exchange_sent, METH_O, sent_doc},
    {"ask", (PyCFunction)exchange_ask, METH_VARARGS, ask_doc},
    {"leave_out_dead", (PyCFunction)exchange_leave_out_dead, METH_NOARGS, leave_out_dead_doc},
    {"leave_out", (PyCFunction)exchange_leave_out, METH_O, leave_out_doc},
    {"diff", (PyCFunction)exchange_diff, METH_O, diff_doc},
    {"page_end", (PyCFunction)exchange_page_end, METH_O, page_end_doc},
    {"select", (PyCFunction)exchange_select, METH_VARARGS, select_doc},
    {"merge", (PyCFunction)exchange_merge, METH_VARARGS, merge_doc},
    {"upstream", (PyCFunction)exchange_upstream, METH_NOARGS, upstream_doc},
    {"downstream", (PyCFunction)exchange_downstream, METH_NOARGS, downstream_doc},
    {"operations", (PyCFunction)exchange_operations, METH_VARARGS, operations_doc},
    {"upstream_index", (PyCFunction)exchange_upstream_index, METH_O, upstream_index_doc},
    {"acknowledge", (PyCFunction)exchange_acknowledge, METH_O, acknowledge_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(exchange_doc,
             "Exchange(diffs, diffs_model_name=None, max_diffs=sys.maxsize,\n"
             "         max_json_data_bytes=sys.maxsize, max_depth=sys.maxsize)\n--\n\n"
             "One device's request on its way through the merge.");

static PyType_Slot exchange_slots[] = {
    {Py_tp_doc, (void *)exchange_doc},
    {Py_tp_new, exchange_new},
    {Py_tp_dealloc, exchange_dealloc},
    {Py_tp_traverse, exchange_traverse},
    {Py_tp_clear, exchange_clear},
    {Py_tp_methods, exchange_methods},
    {Py_tp_getset, exchange_attributes},
    {Py_sq_length, exchange_length},
    {0, NULL},
};

PyType_Spec exchange_spec = {
    .name = "mobync._core.Exchange",
    .basicsize = sizeof(Exchange),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = exchange_slots,
};
