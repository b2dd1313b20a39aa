/* validate.c - the app's rules, and which diffs are refused along with one.
 *
 * The rules are asked about everything that is new in a request. For a retry they are asked only
 * about what it would write. The rule may have said yes at the first try and say no by now, for
 * example because the first try locked the row. So a retry is merged first. If something is written
 * of a known diff that the log does not have, the rules are asked about that too: no value reaches
 * a table without a rule being asked about it.
 *
 * If the server skips, a refused diff is excluded, and the request continues without it. With a
 * create or a delete, the device's later diffs of that object are excluded too. Excluding a diff
 * can change what else of its object is written, so the rules are asked about the whole object.
 */
#include "binding.h"

/* ---- one rule ------------------------------------------------------------------------------ */

/* Reads a diff with Python's own reader, which cannot read all JSON. */
static PyObject *load_diff(sync_state *s, size_t index)
{
    PyObject *json = text_to_str(s->request.diffs.items[index].text);
    if (json == NULL)
        return NULL;
    PyObject *dict = PyObject_CallOneArg(s->state->json_loads, json);
    Py_DECREF(json);
    if (dict == NULL && (PyErr_ExceptionMatches(PyExc_ValueError) ||
                         PyErr_ExceptionMatches(PyExc_RecursionError))) {
        PyErr_Clear();
        raise_invalid(s->state, (Py_ssize_t)index, &s->request.diffs.items[index],
                      "a number too long or nesting too deep for the rules to be asked");
    }
    return dict;
}

/* Calls the rule with the values of the seven fields as keywords: no dict in between. */
static PyObject *call_rule_with_fields(sync_state *s, const store *app, PyObject *rule,
                                       size_t index)
{
    const mb_diff *diff = &s->request.diffs.items[index];
    const mb_outcome as_sent = {index, diff->type, s->notes[index].sent_timestamp, diff->json_data};
    PyObject *arguments[2 + FIELDS];
    arguments[0] = app->object;
    arguments[1] = s->owner_id;
    if (outcome_values(s->state, &as_sent, &s->request, &arguments[2]) < 0)
        return NULL;
    PyObject *answer = PyObject_VectorcallMethod(
        rule, arguments, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, s->state->fields);
    for (int i = 0; i < FIELDS; i++)
        Py_DECREF(arguments[2 + i]);
    return answer;
}

/* The same with all that the device sent. */
static PyObject *call_rule_with_dict(sync_state *s, const store *app, PyObject *rule, size_t index)
{
    PyObject *sent = s->notes[index].sent;
    PyObject *diff = sent == NULL ? load_diff(s, index) : Py_NewRef(sent);
    PyObject *method = diff == NULL ? NULL : PyObject_GetAttr(app->object, rule);
    PyObject *answer =
        method == NULL ? NULL : PyObject_VectorcallDict(method, &s->owner_id, 1, diff);
    Py_XDECREF(method);
    Py_XDECREF(diff);
    return answer;
}

/* Calls rule(owner_id, **diff), with the diff as the device sent it. */
static PyObject *call_rule(sync_state *s, const store *app, PyObject *rule, size_t index)
{
    const bool has_only_fields = s->request.json == NULL ? s->notes[index].sent == NULL
                                                         : s->request.diffs.items[index].is_whole;
    return has_only_fields ? call_rule_with_fields(s, app, rule, index)
                           : call_rule_with_dict(s, app, rule, index);
}

/* The answer of a rule. NOTHING is a no as well, but most often a forgotten `return True`. */
enum { NO = 0, YES = 1, NOTHING = 2 };

/* Only True is a yes. A forgotten call or await is true as well, and so is (False, "why not"). Returns
 * the answer, or -1 with an exception. */
static int take_answer(PyObject *answer, PyObject *rule_name)
{
    if (answer == Py_None)
        return NOTHING;
    if (answer == Py_True || answer == Py_False)
        return answer == Py_True;
    const int is_true = PyObject_IsTrue(answer);
    if (is_true > 0)
        return raise_format(PyExc_TypeError, "%U() must return True or False, not a %.100s",
                            rule_name, Py_TYPE(answer)->tp_name);
    return is_true;
}

static int ask_rule(sync_state *s, const store *app, size_t index)
{
    PyObject *rule = s->state->rule_names[s->request.diffs.items[index].type];
    PyObject *answer = call_rule(s, app, rule, index);
    if (answer != Py_True) /* which nothing has to await */
        answer = plain_answer(app, answer, rule);
    if (answer == NULL)
        return -1;
    const int taken = take_answer(answer, rule);
    Py_DECREF(answer);
    return taken;
}

/* ---- which diff an error means ------------------------------------------------------------- */

int name_diff(sync_state *s, PyObject *error, size_t index)
{
    PyObject *number = PyLong_FromSize_t(index);
    PyObject *id = diff_text(&s->request, index, ID_TEXT);
    const bool is_named = number != NULL && id != NULL &&
                          PyObject_SetAttr(error, s->state->index, number) == 0 &&
                          PyObject_SetAttr(error, s->state->diff_id, id) == 0;
    Py_XDECREF(number);
    Py_XDECREF(id);
    return is_named ? 0 : -1;
}

/* Sets the position in an exception that a rule raised: it may have that of another request, if an
 * app raises the same object again. Returns 1 if it is a refusal, else 0. */
static int place_refusal(sync_state *s, size_t index)
{
    if (!PyErr_ExceptionMatches(s->state->invalid_diff_error) &&
        !PyErr_ExceptionMatches(s->state->unauthorized_error))
        return 0;
    PyObject *error = take_exception();
    if (name_diff(s, error, index) < 0) {
        Py_DECREF(error);
        return 0;
    }
    restore_exception(error);
    return 1;
}

static int raise_unauthorized(sync_state *s, size_t index, int answer)
{
    const mb_diff *diff = &s->request.diffs.items[index];
    const char *why = answer == NOTHING ? " (it returned None, not True)" : "";
    return raise_at(s->state->unauthorized_error, (Py_ssize_t)index, diff->id,
                    PyUnicode_FromFormat("%U refused it%s", s->state->rule_names[diff->type], why));
}

/* ---- exclusion ----------------------------------------------------------------------------- */

/* The text of an app's reason. It can be anything, but the reply must be text that JSON can hold.
 */
static PyObject *clean_reason(sync_state *s, PyObject *error)
{
    PyObject *reason = PyObject_GetAttr(error, s->state->reason);
    PyObject *text = reason == NULL ? NULL : PyObject_Str(reason);
    PyObject *bytes = text == NULL ? NULL : PyUnicode_AsEncodedString(text, "utf-8", "replace");
    PyObject *clean = bytes == NULL ? NULL : PyUnicode_FromEncodedObject(bytes, "utf-8", NULL);
    Py_XDECREF(reason);
    Py_XDECREF(text);
    Py_XDECREF(bytes);
    return clean;
}

/* Adds the entry of the reply for an excluded diff. If its id cannot be read, the entry has its
 * index. Takes the reference to the message. */
static int add_refusal(sync_state *s, size_t index, const char *code, PyObject *message)
{
    if (message == NULL)
        return -1;
    const bool has_id = s->request.diffs.items[index].id.size != 0;
    PyObject *name = has_id ? diff_text(&s->request, index, ID_TEXT) : PyLong_FromSize_t(index);
    PyObject *refusal =
        Py_BuildValue("{sNsssN}", has_id ? "id" : "index", name, "code", code, "message", message);
    const int result = refusal == NULL ? -1 : PyList_Append(s->refused, refusal);
    Py_XDECREF(refusal);
    return result;
}

/* Diffs that were excluded along with another have already excluded their own. */
void take_along(sync_state *s, const mb_diff *excluded)
{
    if (excluded->type == MB_UPDATE && excluded->malformed == NULL)
        return;
    const mb_diff *first = s->request.diffs.items;
    for (const mb_diff *diff = excluded->next_of_object; diff != NULL;
         diff = diff->next_of_object) {
        if (s->notes[diff - first].taken_along)
            return;
        s->notes[diff - first].taken_along = true;
    }
}

static int exclude(sync_state *s, size_t index, PyObject *error)
{
    mb_diff *diff = &s->request.diffs.items[index];
    diff->excluded = true;
    take_along(s, diff);
    if (error == NULL)
        return add_refusal(s, index, "depends_on_refused",
                           PyUnicode_FromString("an earlier diff of its object was refused"));
    const int is_rule = PyErr_GivenExceptionMatches(error, s->state->unauthorized_error);
    return add_refusal(s, index, is_rule ? "unauthorized" : "invalid", clean_reason(s, error));
}

/* The mistake of a malformed diff: a new reference to an exception; NULL if it cannot be made. */
static PyObject *malformed_error(sync_state *s, size_t index)
{
    if (s->notes[index].malformed != NULL)
        return Py_NewRef(s->notes[index].malformed);
    raise_status(s->state, MB_INVALID, index, s->request.diffs.items[index].malformed);
    return PyErr_ExceptionMatches(s->state->invalid_diff_error) ? take_exception() : NULL;
}

/* Asks the rules about one diff. Returns 0 if it is allowed, or 1 with *error, a new reference that
 * says why not. *error is NULL if an earlier diff of its object was refused. Returns -1 with an
 * exception. */
static int judge(sync_state *s, const store *app, size_t index, PyObject **error)
{
    *error = NULL;
    if (s->notes[index].taken_along)
        return 1;
    *error = Py_XNewRef(s->notes[index].misfit);
    if (*error != NULL)
        return 1;
    const int answer = ask_rule(s, app, index);
    if (answer == YES)
        return 0;
    if (answer >= 0)
        raise_unauthorized(s, index, answer);
    if (!place_refusal(s, index))
        return -1;
    *error = take_exception();
    return 1;
}

/* ---- the request --------------------------------------------------------------------------- */

int check_rule(sync_state *s, const store *app, size_t index)
{
    PyObject *error;
    const int refused = judge(s, app, index, &error);
    if (refused <= 0)
        return refused;
    if (!s->skips) {
        restore_exception(error);
        return -1;
    }
    const int result = exclude(s, index, error);
    Py_XDECREF(error);
    return result;
}

static int exclude_malformed(sync_state *s, size_t index)
{
    PyObject *error = malformed_error(s, index);
    const int result = error == NULL ? -1 : exclude(s, index, error);
    Py_XDECREF(error);
    return result;
}

/* Excludes what follows a malformed diff of its object, before a retry is merged. No rule has to be
 * asked for that, so a retry refuses the same diffs as the first try, whether it would write them or
 * not. Known diffs stay: the log has them. */
static void exclude_after_malformed(sync_state *s)
{
    mb_diffs *request = &s->request.diffs;
    for (size_t i = 0; i < request->count; i++)
        if (request->items[i].malformed != NULL)
            take_along(s, &request->items[i]);
    for (size_t i = 0; i < request->count; i++) {
        mb_diff *diff = &request->items[i];
        diff->excluded |= s->notes[i].taken_along && !diff->known && !diff->repeated;
    }
}

int validate_new(sync_state *s, const store *app)
{
    const mb_diffs *request = &s->request.diffs;
    bool *to_validate = NULL;
    if (s->skips)
        Py_XSETREF(s->refused, PyList_New(0));
    exclude_after_malformed(s);
    if ((s->skips && s->refused == NULL) || (s->is_retry && merge_request(s) < 0))
        return -1;
    if (s->is_retry && check_memory(mb_find_to_validate(s->scratch, request, &s->result, s->skips,
                                                        &to_validate)) < 0)
        return -1;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        int result = 0;
        if (diff->malformed != NULL)
            result = exclude_malformed(s, i);
        else if (diff->excluded || (s->is_retry ? to_validate[i] : !diff->repeated))
            result = check_rule(s, app, i);
        if (result < 0)
            return -1;
    }
    return 0;
}
