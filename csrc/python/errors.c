/* errors.c - errors of the core as exceptions.
 *
 * The core says which field of which diff breaks which rule. Here this becomes an InvalidDiffError
 * with a position that a client's developer can find. The core's reasons are used unchanged.
 */
#include "binding.h"

#include <stdarg.h>

int raise_made(PyObject *exception)
{
    if (exception != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_XDECREF(exception);
    return -1;
}

int raise_at(PyObject *type, Py_ssize_t index, mb_text id, PyObject *reason)
{
    PyObject *number = index >= 0 ? PyLong_FromSsize_t(index) : Py_NewRef(Py_None);
    PyObject *name = id.size > 0 ? text_to_str(id) : Py_NewRef(Py_None);
    if (reason != NULL && number != NULL && name != NULL)
        raise_made(PyObject_CallFunctionObjArgs(type, reason, number, name, NULL));
    Py_XDECREF(number);
    Py_XDECREF(name);
    Py_XDECREF(reason);
    return -1;
}

int raise_invalid(module_state *state, Py_ssize_t index, const mb_diff *diff, const char *format,
                  ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyObject *reason = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    return raise_at(state->invalid_diff_error, index, diff != NULL ? diff->id : (mb_text){NULL, 0},
                    reason);
}

/* What the core says about a mistake, as people read it. */
static PyObject *reason_of(const mb_error *error)
{
    const char *field = error->field, *reason = error->reason;
    if (field == NULL)
        return PyUnicode_FromFormat("%s (at byte %zu)", reason, error->offset);
    if (!error->of_whole_field)
        return PyUnicode_FromFormat("%s: %s (at byte %zu)", field, reason, error->offset);
    if (error->limit != NULL)
        return PyUnicode_FromFormat("%s %s: %zu are allowed", field, reason, *error->limit);
    return PyUnicode_FromFormat("%s %s", field, reason);
}

int raise_status(module_state *state, mb_status status, size_t index, const mb_error *error)
{
    if (status == MB_NO_MEMORY)
        return check_memory(status);
    return raise_at(state->invalid_diff_error, index == SIZE_MAX ? -1 : (Py_ssize_t)index,
                    error->diff_id, reason_of(error));
}

int raise_format(PyObject *type, const char *format, ...)
{
    va_list arguments;
    PyErr_Clear();
    va_start(arguments, format);
    PyObject *message = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    if (message != NULL)
        PyErr_SetObject(type, message);
    Py_XDECREF(message);
    return -1;
}

int check_memory(mb_status status)
{
    if (status == MB_OK)
        return 0;
    PyErr_NoMemory();
    return -1;
}

int raise_shown(module_state *state, PyObject *error_type, const char *format, PyObject *value)
{
    PyObject *shown = PyObject_CallOneArg(state->shown, value);
    if (shown != NULL)
        raise_format(error_type, format, shown);
    Py_XDECREF(shown);
    return -1;
}

#if PY_VERSION_HEX >= 0x030c0000
PyObject *take_exception(void)
{
    return PyErr_GetRaisedException();
}

void restore_exception(PyObject *exception)
{
    PyErr_SetRaisedException(exception);
}
#else
PyObject *take_exception(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
}

void restore_exception(PyObject *exception)
{
    PyErr_Restore(Py_NewRef(Py_TYPE(exception)), exception, PyException_GetTraceback(exception));
}
#endif
