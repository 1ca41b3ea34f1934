/* Products by blocks: a block of A and one of B are packed into panels as f32, then tiles of C are computed by the
 * micro-kernel. Operands that lie well for it are read where they are. */
#include "kernel/cpu/gemm_product.h"

enum {
    STRIP_PANELS = 4,        /* of B, that a thread packs for itself when B is very wide */
    SHALLOW = 32,            /* depth up to which C is the largest of the three */
    IN_PLACE_ROWS = 128,     /* with more, packing B pays */
    PACKED_FLOATS = 2 << 20, /* of both operands, unless one kc needs more */
    COPY_DEPTH = 64,         /* of rows that are copied side by side */
    ALIASED = 1024,          /* rows as many floats apart compete for the same lines of a cache */
    MIN_TILES = 128,         /* tasks of a block, when it has so many tiles */
    MAX_NR = 32,
    MAX_KC = 576,
};

/* The part of C at (row, col) with the panels for it; depth from `depth_at`, both in steps of the kernel's unit. */
typedef struct block {
    int64_t row, rows, col, cols, depth_at, depth;
} block;

/* Of the whole depth, in units. */
static int64_t steps_of(const product *job) {
    return (job->k + job->kernel->unit - 1) / job->kernel->unit;
}

/* Elements of depth in the panels of `at`. */
static int64_t elements(const product *job, const block *at) {
    return smaller(at->depth * job->kernel->unit, job->k - at->depth_at * job->kernel->unit);
}

static void pack_b(const product *job, const block *at, int64_t panel, float *packed) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t from = panel * kernel->nr, cols = smaller(at->cols - from, kernel->nr);
    if (!job->b_in_place || cols < kernel->nr)
        tn_gemm_widen(kernel, packed + from * at->depth, kernel->nr,
                      tn_operand_part(job->b, at->depth_at * kernel->unit, at->col + from), elements(job, at), cols,
                      kernel->nr);
}

static void pack_a(product *job, const block *at, int64_t panel) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t from = panel * kernel->mr;
    tn_gemm_widen(kernel, job->packed_a + panel * kernel->panel_a * at->depth, kernel->panel_a,
                  tn_operand_transposed(tn_operand_part(job->a, at->row + from, at->depth_at * kernel->unit)),
                  elements(job, at), smaller(at->rows - from, kernel->mr), kernel->panel_a);
}

static void pack_panels(product *job, const block *at, bool with_b) {
    int64_t a_panels = job->a_in_place || job->a_by_rows ? 0 : (at->rows + job->kernel->mr - 1) / job->kernel->mr;
    int64_t b_panels = with_b ? (at->cols + job->kernel->nr - 1) / job->kernel->nr : 0;
    for (int64_t i; (i = take(&job->next_pack)) < a_panels + b_panels;) {
        if (i < b_panels)
            pack_b(job, at, i, job->packed_b);
        else
            pack_a(job, at, i - b_panels);
    }
}

/* Depth `from` to `from + depth` of panel j of B, and how far apart its rows are. */
static const float *panel_of_b(const product *job, const block *at, const float *packed, int64_t j, int64_t from,
                               int64_t *step) {
    const tn_gemm_kernel *kernel = job->kernel;
    if (job->b_in_place && at->cols - j * kernel->nr >= kernel->nr) {
        *step = job->b.row_stride;
        return tn_operand_part(job->b, at->depth_at + from, at->col + j * kernel->nr).data;
    }
    *step = kernel->nr;
    return packed + (j * at->depth + from) * kernel->nr;
}

typedef struct range {
    int64_t from, to;
} range;

/* The same of A, and how far apart a panel's rows and columns are. */
static const float *panel_of_a(const product *job, const block *at, int64_t i, int64_t from, int64_t *row, int64_t *step) {
    const tn_gemm_kernel *kernel = job->kernel;
    if (job->a_in_place) {
        *row = job->a.row_stride;
        *step = job->a.col_stride;
        return tn_operand_part(job->a, at->row + i * kernel->mr, at->depth_at + from).data;
    }
    *row = 1;
    *step = kernel->panel_a;
    return job->packed_a + (i * at->depth + from) * kernel->panel_a;
}

/* In pieces, so that all rows are fetched side by side. */
static void copy_rows(const tn_gemm_kernel *kernel, float *to, int64_t stride, tn_operand from, int64_t rows,
                      int64_t depth) {
    for (int64_t p = 0; p < depth; p += COPY_DEPTH) {
        int64_t piece = smaller(depth - p, COPY_DEPTH);
        tn_gemm_widen(kernel, to + p, stride, tn_operand_part(from, 0, p), rows, piece, round_up(piece, kernel->panel_a));
    }
}

/* Tiles of C from panels of A and B, their depth in steps of kc. */
static void multiply_panels(const product *job, const block *at, const float *packed_b, range down, range across,
                            int64_t from) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t depth = smaller(at->depth - from, job->kc);
    float beta = at->depth_at + from ? 1.0f : job->beta, rows_of_a[MAX_PANEL * (MAX_KC + MAX_PANEL)];
    for (int64_t i = down.from; i < down.to; i++) {
        int64_t row = i * kernel->mr, rows = smaller(at->rows - row, kernel->mr), a_row, a_step;
        const float *a = rows_of_a;
        if (job->a_by_rows) {
            a_row = round_up(depth, kernel->panel_a);
            a_step = 1;
            copy_rows(kernel, rows_of_a, a_row, tn_operand_part(job->a, at->row + row, at->depth_at + from), rows, depth);
        } else {
            a = panel_of_a(job, at, i, from, &a_row, &a_step);
        }
        for (int64_t j = across.from; j < across.to; j++) {
            int64_t col = j * kernel->nr, b_step;
            const float *b = panel_of_b(job, at, packed_b, j, from, &b_step);
            float *c = job->c.data + (at->row + row) * job->c.row_stride + (at->col + col) * job->c.col_stride;
            int64_t cols = smaller(at->cols - col, kernel->nr);
            if (job->c.col_stride == 1)
                kernel->tile(c, job->c.row_stride, a, a_row, a_step, b, b_step, job->alpha, beta, rows, cols, depth);
            else
                kernel->tile_across(c, job->c.col_stride, a, a_row, a_step, b, b_step, job->alpha, beta, rows, cols, depth);
        }
    }
}

/* Tasks of up to 4 x 4 tiles, smaller when there would be too few to share out. With little depth C is the largest of the
 * three and is walked along its rows. */
static void multiply_block(product *job, const block *at) {
    int64_t a_panels = (at->rows + job->kernel->mr - 1) / job->kernel->mr;
    int64_t b_panels = (at->cols + job->kernel->nr - 1) / job->kernel->nr;
    bool shallow = at->depth <= SHALLOW;
    int64_t high = shallow ? 1 : 4, wide = shallow ? 16 : 4;
    if (job->a_by_rows) {
        high = 1;
        wide = b_panels;
    }
    while (!job->a_by_rows && high * wide > 1 && a_panels * b_panels < MIN_TILES * high * wide) {
        if (high >= wide)
            high /= 2;
        else
            wide /= 2;
    }
    int64_t down = (a_panels + high - 1) / high, across = (b_panels + wide - 1) / wide;
    for (int64_t i; (i = take(&job->next_task)) < down * across;) {
        range rows = {i % down * high, smaller(i % down * high + high, a_panels)};
        range cols = {i / down * wide, smaller(i / down * wide + wide, b_panels)};
        for (int64_t from = 0; from < at->depth; from += job->kc)
            multiply_panels(job, at, job->packed_b, rows, cols, from);
    }
}

/* Tasks of all rows and a strip of columns, each of which packs its own part of B and uses it while it is near. */
static void multiply_strips(product *job, const block *at) {
    const tn_gemm_kernel *kernel = job->kernel;
    float *packed_b = team_index(job) == 0 ? job->packed_b : tn_gemm_scratch(STRIP_PANELS * kernel->nr * at->depth);
    if (!packed_b)
        return;
    int64_t width = STRIP_PANELS * kernel->nr;
    for (int64_t col; (col = take(&job->next_task) * width) < at->cols;) {
        block strip = *at;
        strip.col += col;
        strip.cols = smaller(at->cols - col, width);
        range down = {0, (at->rows + kernel->mr - 1) / kernel->mr}, across = {0, (strip.cols + kernel->nr - 1) / kernel->nr};
        for (int64_t j = 0; j < across.to; j++)
            pack_b(job, &strip, j, packed_b);
        multiply_panels(job, &strip, packed_b, down, across, 0);
    }
}

/* Two counters of tasks, since a thread may still take from one while others take from the next. The leader resets each
 * while a barrier keeps everyone from it. */
static void run_blocks(product *job) {
    bool leader = team_index(job) == 0, first = true;
    int64_t steps = steps_of(job);
    for (int64_t j = 0; j < job->n; j += job->nc) {
        for (int64_t p = 0; p < steps; p += job->packed_depth) {
            for (int64_t i = 0; i < job->m; i += job->mc) {
                block at = {i, smaller(job->m - i, job->mc),         j, smaller(job->n - j, job->nc),
                            p, smaller(steps - p, job->packed_depth)};
                if (!first) {
                    wait_for_all(job);
                    if (leader)
                        atomic_store_explicit(&job->next_task, 0, memory_order_relaxed);
                }
                first = false;
                pack_panels(job, &at, i == 0 && !job->by_strips);
                wait_for_all(job);
                if (leader)
                    atomic_store_explicit(&job->next_pack, 0, memory_order_relaxed);
                if (job->by_strips)
                    multiply_strips(job, &at);
                else
                    multiply_block(job, &at);
            }
        }
    }
}

/* Sets the sizes of blocks from the shape alone. Returns the floats of packed A; those of B follow them. */
static int64_t choose_blocks(product *job) {
    const tn_gemm_kernel *kernel = job->kernel;
    job->mc = even_block(job->m, kernel->mc, kernel->mr);
    job->kc = even_block(steps_of(job), kernel->kc, 8);
    if (kernel->unit == 1) {
        job->a_in_place = !job->a_by_rows && job->n <= IN_PLACE_COLS && job->a.dtype == TN_DTYPE_F32;
        job->b_in_place = job->m <= IN_PLACE_ROWS && job->b.dtype == TN_DTYPE_F32 && job->b.col_stride == 1 &&
                          job->b.row_stride % ALIASED != 0;
    }
    int64_t height = job->a_in_place || job->a_by_rows ? 0 : job->mc / kernel->mr * kernel->panel_a;
    job->by_strips = job->n >= MIN_TILES * STRIP_PANELS * kernel->nr;
    if (job->by_strips) {
        job->nc = job->n;
        job->packed_depth = job->kc;
    } else {
        /* The threads wait for each other once for each packed block, so several kc are packed when they are small. */
        job->nc = even_block(job->n, kernel->nc, kernel->nr);
        int64_t most = PACKED_FLOATS / ((height + job->nc) * job->kc), steps = (steps_of(job) + job->kc - 1) / job->kc;
        job->packed_depth = even_block(steps, most > 1 ? most : 1, 1) * job->kc;
    }
    return height * job->packed_depth;
}

void tn_gemm_by_blocks(product *job) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t size_a = choose_blocks(job);
    int64_t width = job->by_strips ? STRIP_PANELS * kernel->nr : job->nc;
    job->packed_a = tn_gemm_scratch(size_a + width * job->packed_depth);
    if (job->packed_a) {
        job->packed_b = job->packed_a + size_a;
        run(job, run_blocks);
        return;
    }
    /* One tile at a time gives the same bits, since kc is the same. */
    float panels[MAX_KC * (MAX_PANEL + MAX_NR)];
    job->by_strips = false;
    job->mc = kernel->mr;
    job->nc = kernel->nr;
    job->packed_depth = job->kc;
    job->packed_a = panels;
    job->packed_b = panels + MAX_KC * MAX_PANEL;
    job->threads = 1;
    run(job, run_blocks);
}
