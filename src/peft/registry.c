/* The list of methods. A new one is a new file and a line here. */
#include <string.h>

#include "peft/lora.h"

const tn_peft_method *const tn_peft_methods[] = {&tn_lora, NULL};

const tn_peft_method *tn_peft_method_by_type(const char *peft_type) {
    for (const tn_peft_method *const *method = tn_peft_methods; *method; method++)
        if (strcmp((*method)->peft_type, peft_type) == 0)
            return *method;
    return NULL;
}
