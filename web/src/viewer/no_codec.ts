/** Stands for NiiVue's zarr codecs: the server sends NIfTI only. */

export default {
  fromConfig(): never {
    throw new Error("this page reads NIfTI only");
  },
};
