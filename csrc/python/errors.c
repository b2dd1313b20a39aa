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

int raise_at(PyObject *type, Py_ssize_t index, PyObject *id, PyObject *reason)
{
    if (reason == NULL)
        return -1;
    PyObject *number = index >= 0 ? PyLong_FromSsize_t(index) : Py_NewRef(Py_None);
    if (number != NULL) {
        const bool is_id = id != NULL && PyUnicode_Check(id) && PyUnicode_GetLength(id) > 0;
        raise_made(PyObject_CallFunctionObjArgs(type, reason, number, is_id ? id : Py_None, NULL));
        Py_DECREF(number);
    }
    Py_DECREF(reason);
    return -1;
}

int raise_invalid(module_state *state, Py_ssize_t index, PyObject *id, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyObject *reason = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    return raise_at(state->invalid_diff_error, index, id, reason);
}

int raise_status(module_state *state, mb_status status, Py_ssize_t index, PyObject *id,
                 const mb_error *error)
{
    if (status == MB_NO_MEMORY)
        return check_memory(status);
    if (error->field == NULL)
        return raise_invalid(state, index, id, "%s (at byte %zu)", error->reason, error->offset);
    if (!error->of_whole_field)
        return raise_invalid(state, index, id, "%s: %s (at byte %zu)", error->field, error->reason,
                             error->offset);
    if (error->limit != NULL)
        return raise_invalid(state, index, id, "%s %s: %zu are allowed", error->field,
                             error->reason, *error->limit);
    return raise_invalid(state, index, id, "%s %s", error->field, error->reason);
}

int raise_rule(module_state *state, mb_code code, const char *field, Py_ssize_t index, PyObject *id)
{
    mb_error error;
    return raise_status(state, mb_refuse(&error, code, field), index, id, &error);
}

int raise_read_status(module_state *state, mb_status status, size_t index, const mb_error *error)
{
    PyObject *id = NULL;
    if (status == MB_INVALID && error->diff_id.size != 0) {
        id = PyUnicode_DecodeUTF8(error->diff_id.at, (Py_ssize_t)error->diff_id.size, NULL);
        if (id == NULL)
            return -1;
    }
    raise_status(state, status, index == SIZE_MAX ? -1 : (Py_ssize_t)index, id, error);
    Py_XDECREF(id);
    return -1;
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
