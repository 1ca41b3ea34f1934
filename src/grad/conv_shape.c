/* What makes a convolution or a pool, checked once where its numbers enter. */
#include "base/memory.h"
#include "grad/ops.h"

/* So that windows, steps and offsets of one plane are far from overflowing. */
enum { LARGEST = 1 << 30 };

/* Of elements: so that their bytes, times the least positions of a piece of a convolution, can be counted. */
static const int64_t MOST_ELEMENTS = INT64_MAX / 1024;

static tn_status check_range(const char *name, int64_t value, int64_t least) {
    if (value < least || value > LARGEST)
        return tn_fail(TN_ERROR_FORMAT, "%s is %lld; it must be from %lld to %lld", name, (long long)value, (long long)least,
                       (long long)LARGEST);
    return TN_OK;
}

/* Along one axis: the numbers, and that the window fits. */
static tn_status check_axis(const char *axis, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                            int64_t dilation) {
    int64_t reach;
    tn_status status = TN_OK;
    TN_TRY_GOTO(check_range("the input's size", size, 1));
    TN_TRY_GOTO(check_range("the kernel's size", kernel, 1));
    TN_TRY_GOTO(check_range("the stride", stride, 1));
    TN_TRY_GOTO(check_range("the padding", padding, 0));
    TN_TRY_GOTO(check_range("the dilation", dilation, 1));
    reach = dilation * (kernel - 1) + 1;
    if (reach > size + 2 * padding)
        status = tn_fail(TN_ERROR_FORMAT, "the kernel reaches over %lld positions, but the padded input has only %lld",
                         (long long)reach, (long long)(size + 2 * padding));
fail:
    return status == TN_OK ? TN_OK : tn_fail_context(status, "%s", axis);
}

static tn_status check_axes(const tn_conv_shape *s) {
    TN_TRY(check_axis("height", s->height, s->kernel_height, s->stride_height, s->padding_height, s->dilation_height));
    return check_axis("width", s->width, s->kernel_width, s->stride_width, s->padding_width, s->dilation_width);
}

static tn_status check_volume(const char *what, int64_t channels, int64_t height, int64_t width) {
    int64_t plane, count;
    if (!tn_mul_i64(height, width, &plane) || plane > INT32_MAX || !tn_mul_i64(plane, channels, &count) ||
        count > MOST_ELEMENTS)
        return tn_fail(TN_ERROR_FORMAT, "%s of %lld x %lld x %lld elements is too large", what, (long long)channels,
                       (long long)height, (long long)width);
    return TN_OK;
}

tn_status tn_conv_shape_check(const tn_conv_shape *s) {
    int64_t weights;
    TN_TRY(check_range("the number of input channels", s->in_channels, 1));
    TN_TRY(check_range("the number of output channels", s->out_channels, 1));
    TN_TRY(check_range("the number of groups", s->groups, 1));
    if (s->in_channels % s->groups != 0 || s->out_channels % s->groups != 0)
        return tn_fail(TN_ERROR_FORMAT, "%lld input and %lld output channels cannot be divided into %lld groups",
                       (long long)s->in_channels, (long long)s->out_channels, (long long)s->groups);
    TN_TRY(check_axes(s));
    TN_TRY(check_volume("an input", s->in_channels, s->height, s->width));
    TN_TRY(check_volume("an output", s->out_channels, tn_conv_out_height(s), tn_conv_out_width(s)));
    TN_TRY(check_volume("a window", s->in_channels, s->kernel_height, s->kernel_width));
    if (!tn_mul_i64(s->in_channels * s->kernel_height * s->kernel_width, s->out_channels, &weights) ||
        weights > MOST_ELEMENTS)
        return tn_fail(TN_ERROR_FORMAT, "a weight of %lld x %lld x %lld x %lld elements is too large",
                       (long long)s->out_channels, (long long)s->in_channels, (long long)s->kernel_height,
                       (long long)s->kernel_width);
    return TN_OK;
}

tn_status tn_pool_shape_check(const tn_conv_shape *s) {
    TN_TRY(check_range("the number of channels", s->in_channels, 1));
    TN_TRY(check_axes(s));
    if (s->dilation_height != 1 || s->dilation_width != 1)
        return tn_fail(TN_ERROR_UNSUPPORTED, "pools with a dilation are not supported");
    if (2 * s->padding_height > s->kernel_height || 2 * s->padding_width > s->kernel_width)
        return tn_fail(TN_ERROR_FORMAT, "a pool's padding of %lld x %lld is more than half its kernel of %lld x %lld",
                       (long long)s->padding_height, (long long)s->padding_width, (long long)s->kernel_height,
                       (long long)s->kernel_width);
    TN_TRY(check_volume("an input", s->in_channels, s->height, s->width));
    return check_volume("an output", s->in_channels, tn_conv_out_height(s), tn_conv_out_width(s));
}
