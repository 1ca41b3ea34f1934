/* Any bytes as a training file: read, split, measured, shown and packed. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../data/small_tokenizer.h"
#include "base/memory.h"
#include "data/batch.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tn_tokenizer *tokenizer;
static tn_chat_template *chat_template;

static const char template_source[] =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    char folder[] = "/tmp/tenon-fuzz-XXXXXX";
    if (!mkdtemp(folder) || small_tokenizer(folder, true, true, &tokenizer) != TN_OK ||
        tn_chat_template_parse(template_source, "chatml", &chat_template) != TN_OK)
        abort();
    return tn_path_remove_tree(folder) == TN_OK ? 0 : -1;
}

static void pack_all(const tn_dataset *dataset) {
    tn_order order;
    tn_batch_builder builder;
    const tn_batch *batch;
    if (tn_order_init(&order, dataset, 2, true, 1) != TN_OK)
        abort();
    if (tn_batch_builder_init(&builder, tn_order_bounds(&order, 0, tn_order_per_epoch(&order))) != TN_OK)
        abort();
    for (int64_t i = 0; i < tn_order_per_epoch(&order); i++)
        if (tn_batch_at(&builder, &order, i, &batch) != TN_OK || batch->labelled < 1)
            abort();
    tn_batch_builder_free(&builder);
    tn_order_free(&order);
}

static void use(tn_dataset *dataset, const tn_tokenizer *shown_by) {
    tn_dataset valid;
    tn_dataset_stats stats;
    tn_buf out = {0};
    if (tn_dataset_split(dataset, &valid, 0.3, 1) != TN_OK || tn_dataset_measure(dataset, &stats) != TN_OK)
        abort();
    for (int64_t i = 0; i < dataset->count; i++)
        if (tn_dataset_show(dataset, i, shown_by, i % 2 == 0, &out) != TN_OK)
            abort();
    pack_all(dataset);
    tn_buf_free(&out);
    tn_dataset_free(&valid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    int fd = memfd_create("rows", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    tn_dataset dataset;
    tn_dataset_options options = {.tokenizer = tokenizer,
                                  .chat_template = chat_template,
                                  .max_length = 100,
                                  .keep_text = true,
                                  .train_on_prompt = size % 2};
    if (tn_dataset_read(path, &options, &dataset) == TN_OK)
        use(&dataset, tokenizer);
    tn_dataset_free(&dataset);
    options = (tn_dataset_options){.vocab_size = 300, .max_length = 8, .too_long = TN_TOO_LONG_DROP};
    if (tn_dataset_read(path, &options, &dataset) == TN_OK)
        use(&dataset, NULL);
    tn_dataset_free(&dataset);
    close(fd);
    return 0;
}
